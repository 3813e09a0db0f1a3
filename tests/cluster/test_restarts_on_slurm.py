"""Restarts on a real Slurm: a rank is killed; a node does not answer; a node is lost with all that it ran."""

import json
import os
import random
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest
from support.batch_runs import command_line_in, ended, log, metrics, submit, until
from support.kills import Nodes, killed_and_restarted, kills_of_launches, undisturbed
from support.runs import ledger
from support.slurm_cluster import slurm_or_skip

CHOSEN = Path(__file__).parent / "programs" / "chosen_nodes.py"
LONG = ["--set", "training.epochs=4", "--restarts", 2]


def ranks_of(run, attempt):
    """Return the processes of an attempt's ranks."""
    mark = f"{attempt}-"
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[1:4] == ["-m", "kakurenbo_hpc.cli", "train"] and str(run) in words:
            try:
                if process.environ().get("KAKURENBO_LAUNCH_ATTEMPT", "").startswith(mark):
                    found.append(process)
            except psutil.Error:
                continue
    return found


def test_a_killed_rank_is_started_again_inside_its_job(kakurenbo, slurm_machine, tmp_path):
    run = tmp_path / "run"
    here = slurm_machine(starter="srun", mpi="pmix", ranks_per_node=2, cores_per_node=2)
    submit(kakurenbo, here, run, *LONG)
    until(lambda: metrics(run), lambda: log(run), seconds=300)
    os.kill(ranks_of(run, 1)[-1].pid, signal.SIGKILL)
    assert ended(kakurenbo, run, seconds=400) == "done", log(run)
    assert log(run).count("== restart 1 of 2, attempt 1 ended: rank") == 1, log(run)
    exits = [json.loads(line) for line in (run / "exits.jsonl").read_text().splitlines()]
    ends = [one for one in exits if one["event"] == "ended"]
    assert [end["restarts"] for end in ends] == [True, False]
    assert len(metrics(run)) == 4


@pytest.mark.nightly
def test_a_requeued_job_waits_for_other_nodes_than_those_left_out(kakurenbo, quick_machine, slurm, tmp_path):
    run, here = tmp_path / "run", quick_machine(75, spares=1, max_requeues=1)
    lost = f'mkdir -p "{run}/batch"; echo n2 > "{run}/batch/lost_nodes"'
    python = tmp_path / "ends_75" / "bin" / "python"
    python.write_text(f"#!/bin/sh\n{lost}\nexit 75\n")
    submit(kakurenbo, here, run)
    until(lambda: "without n2" in log(run), lambda: log(run), seconds=60)
    until(lambda: slurm.say("squeue", "--noheader", "--format=%t %x") == "PD n2", lambda: slurm.say("squeue"))
    slurm.say("scancel", "--user=root")


@pytest.mark.nightly
def test_a_node_that_does_not_answer_is_left_out(slurm_machine, tmp_path):
    log, machine = tmp_path / "log.txt", slurm_machine()
    program = f"{sys.executable} {CHOSEN} '{machine}' {tmp_path}"
    (tmp_path / "slurm").mkdir()
    with slurm_or_skip(tmp_path / "slurm") as slurm:
        words = ["sbatch", "--no-kill", "--nodes=2", f"--output={log}", f"--wrap={program}"]
        subprocess.run(words, env=slurm.environment, check=True, cwd=tmp_path)
        until(lambda: log.exists() and "attempt 1: n1\n" in log.read_text(), lambda: log.read_text())
        slurm.kill_daemon("n2")
        (tmp_path / "go").touch()
        until(lambda: "ended" in log.read_text(), lambda: log.read_text(), seconds=200)
    assert "node n2 is left out: " in log.read_text() and "attempt 2: n1\n" in log.read_text()


@pytest.mark.nightly
def test_a_spare_takes_the_place_of_a_node_that_fails_its_check(kakurenbo, slurm_machine, tmp_path):
    run, scratch = tmp_path / "run", tmp_path / "scratch"
    facts = {"starter": "srun", "mpi": "pmix", "ranks_per_node": 2, "cores_per_node": 2, "spares": 1}
    submit(kakurenbo, slurm_machine(**facts, scratch=f"{scratch}/$SLURMD_NODENAME"), run, *LONG)
    until(lambda: metrics(run), lambda: log(run), seconds=300)
    assert {rank.environ()["SLURMD_NODENAME"] for rank in ranks_of(run, 1)} == {"n1"}
    (scratch / "n1").rmdir()
    (scratch / "n1").touch()
    os.kill(ranks_of(run, 1)[-1].pid, signal.SIGKILL)
    until(lambda: len(ranks_of(run, 2)) == 2, lambda: log(run), seconds=300)
    assert {rank.environ()["SLURMD_NODENAME"] for rank in ranks_of(run, 2)} == {"n2"}
    assert ended(kakurenbo, run, seconds=400) == "done", log(run)
    assert f"node n1 is left out: scratch {scratch}/$SLURMD_NODENAME cannot be written to" in log(run)
    assert log(run).count("== restart 1 of 2, ") == 1 and len(metrics(run)) == 4


@pytest.mark.nightly
def test_a_run_that_loses_a_node_goes_on_on_the_other_and_loses_no_sample(slurm_machine, mpich, tmp_path):
    run, folder = tmp_path / "run", tmp_path / "slurm"
    machine = slurm_machine(starter="srun", mpi="pmi2", python=str(mpich))
    sets = ["training.epochs=4", "selection={method: everything}", "training.global_batch=20"]
    sets += ["record.checkpoint_seconds=0.1"]
    words = [word for one in sets for word in ("--set", one)]
    folder.mkdir()
    with slurm_or_skip(folder, node_timeout_s=20) as slurm:
        kakurenbo = partial(command_line_in, slurm, tmp_path)
        submit(kakurenbo, machine, run, *words, "--nodes", 2, "--restarts", 2)
        until(lambda: [*run.glob("checkpoints/epoch_000[12]_inside_*")], lambda: log(run), seconds=300)
        assert {rank.environ()["SLURMD_NODENAME"] for rank in ranks_of(run, 1)} == {"n1", "n2"}
        slurm.kill_node("n2")
        assert ended(kakurenbo, run, seconds=400) == "done", log(run)
    said = log(run)
    # srun may hear of the node after the rank that misses its peer.
    why = r"(node n2 was lost|rank 0 of 2 on .* Connection (reset|closed) by peer.*); from epoch_000"
    assert re.search(f"attempt 1 ended: {why}", said), said
    assert "node n2 is left out: " in said and said.count("== restart ") == 1, said
    assert ", 2 ranks on cpu, " in said and ", 1 rank on cpu, global batch 20" in said
    lines = metrics(run)
    assert [(line["epoch"], line["n_backward"]) for line in lines] == [(epoch, 1437) for epoch in range(4)]
    for epoch in range(1, 4):
        assert (ledger(run, epoch)["seen_epoch"] == epoch - 1).all()


@pytest.mark.nightly
def test_kills_of_ranks_under_srun_across_nodes_cost_no_bit(slurm, mpich, tmp_path):
    nodes, draws = Nodes(slurm, mpich), random.Random(seed := random.randrange(1000))
    print(f"seed {seed}")
    whole = undisturbed(2, tmp_path / "whole", "srun", nodes)
    for i, n_kills in enumerate(kills_of_launches()):
        run = tmp_path / f"run_{i}"
        print(*killed_and_restarted("srun", 2, run, whole, n_kills, draws, nodes), sep="\n")
