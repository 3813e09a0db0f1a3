"""A rank of a run on a real Slurm is killed, and a node of it lost: the run goes on inside its job."""

import json
import os
import signal

import psutil
from support.batch_runs import ended, log, metrics, submit, until

LONG = ["--set", "training.epochs=12", "--restarts", 2]


def ranks_of(run, attempt):
    """Return the processes of an attempt's ranks."""
    mark = f"{attempt}-"
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "train" in words and str(run) in words and "mpirun" not in words[0]:
            try:
                if process.environ().get("KAKURENBO_LAUNCH_ATTEMPT", "").startswith(mark):
                    found.append(process)
            except psutil.Error:
                continue
    return found


def node_of(process):
    return process.environ().get("SLURMD_NODENAME")


def test_a_killed_rank_is_started_again_inside_its_job(kakurenbo, slurm_machine, tmp_path):
    run = tmp_path / "run"
    here = slurm_machine(starter="srun", mpi="pmix", ranks_per_node=2, cores_per_node=2)
    submit(kakurenbo, here, run, *LONG)
    until(lambda: metrics(run), lambda: log(run), seconds=300)
    os.kill(ranks_of(run, 1)[-1].pid, signal.SIGKILL)
    assert ended(kakurenbo, run, seconds=400) == "done", log(run)
    assert log(run).count("== restart 1 of 2, attempt 1 ended: rank") == 1, log(run)
    ends = [json.loads(line) for line in (run / "exits.jsonl").read_text().splitlines()]
    assert [end["restarts"] for end in ends] == [True, False]
    assert len(metrics(run)) == 12
