"""Runs on a real Slurm of two nodes: to their end, cancelled, interrupted and requeued, and as a sweep."""

import json
import subprocess
import sys

import pytest
import yaml
from support.batch_runs import ended, log, metrics, paused, state, submit, until
from support.start_ranks import environment

from kakurenbo_hpc.cluster.schedulers.slurm import Slurm

LONG = ["--set", "training.epochs=60"]
SHORT = ["--set", "training.epochs=2"]


@pytest.fixture
def kakurenbo(slurm, tmp_path):
    """The command line, where this Slurm is the batch system."""

    def call(*words: object) -> str:
        command = [sys.executable, "-m", "kakurenbo_hpc.cli", *map(str, words)]
        done = subprocess.run(
            command,
            env=environment() | {"SLURM_CONF": str(slurm.conf)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_a_run_on_two_nodes_goes_to_its_end(kakurenbo, slurm_machine, tmp_path):
    run = tmp_path / "a run"
    said = kakurenbo(
        "submit",
        "digits_kakurenbo",
        "--machine",
        slurm_machine(),
        "--nodes",
        2,
        "--walltime",
        "10m",
        "--run-dir",
        run,
        *SHORT,
    )
    first, second, third = said.splitlines()
    job_id = (run / "batch" / "jobs.txt").read_text().strip()
    assert first == f"job {job_id}: digits_kakurenbo on here, 2 x 1 ranks, 00:10:00"
    assert second == f"log: {run}/batch/log.txt"
    assert third == f"follow: kakurenbo logs --follow '{run}'"
    heard = kakurenbo("logs", "--follow", run)
    assert heard == log(run) and "2 ranks on cpu" in heard, heard
    assert ended(kakurenbo, run) == "done"
    assert "COMPLETED" in kakurenbo("status", run)
    assert len(metrics(run)) == 2
    assert (run / "batch" / "exit_code").read_text() == "0\n"


@pytest.mark.parametrize("verb", ["cancel", pytest.param("stop", marks=pytest.mark.nightly)])
def test_a_run_that_is_ended_stays_ended(verb, kakurenbo, slurm_machine, tmp_path):
    run = tmp_path / "run"
    kakurenbo(
        "submit",
        "digits_kakurenbo",
        "--machine",
        slurm_machine(),
        "--walltime",
        "10m",
        "--run-dir",
        run,
        "--set",
        "training.epochs=2000",
    )
    until(lambda: metrics(run), lambda: log(run))
    assert state(kakurenbo, run) == "running"
    assert {"cancel": "is cancelled", "stop": "writes a checkpoint and leaves"}[verb] in kakurenbo(verb, run)
    assert ended(kakurenbo, run) == "cancelled"
    assert "has ended already (cancelled" in kakurenbo(verb, run)
    if verb == "stop":
        assert "by kakurenbo stop, after a checkpoint" in kakurenbo("status", run)
        assert "stopped by kakurenbo stop" in log(run) and any((run / "checkpoints").iterdir())


@pytest.mark.parametrize("way", ["by a signal", pytest.param("by its walltime", marks=pytest.mark.nightly)])
def test_an_interrupted_run_is_requeued_and_ends_as_if_nothing_had_been(
    way, slurm, kakurenbo, slurm_machine, tmp_path
):
    run, alone = tmp_path / "run", tmp_path / "uninterrupted"
    here = slurm_machine(ranks_per_node=2, grace_s=240)
    kakurenbo("submit", "digits_kakurenbo", "--machine", here, "--walltime", "10m", "--run-dir", run, *LONG)
    job_id = (run / "batch" / "jobs.txt").read_text().strip()
    until(lambda: len(metrics(run)) >= 2, lambda: log(run))
    with paused(run):  # Slurm looks at walltimes every 30 seconds; a fast machine would be done by then
        if way == "by a signal":
            slurm.say("scancel", "--signal=USR1", "--batch", job_id)
        else:  # between three and four minutes are left
            ran = slurm.say("squeue", f"--jobs={job_id}", "--noheader", "--format=%M").split(":")
            slurm.say("scontrol", "update", f"JobId={job_id}", f"TimeLimit={int(ran[-2]) + 4}")
        until((run / "stop").exists, lambda: log(run))
    until(lambda: "Restarts=1" in slurm.say("scontrol", "show", "job", job_id), lambda: log(run))
    assert (run / "batch" / "exit_code").read_text() == "75\n"
    assert len(metrics(run)) < 60
    assert state(kakurenbo, run) == "queued"
    # A requeued job waits for two minutes; a node refuses one that it ended in the same second.
    # One hour: no third start.
    slurm.say("scontrol", "update", f"JobId={job_id}", "StartTime=now+5", "TimeLimit=60")
    assert ended(kakurenbo, run, seconds=600) == "done", log(run)
    assert log(run).count("resuming after") == 1
    assert "its batch script requeues it" in log(run) and "add --resume" not in log(run)
    marks = [
        line.partition(": ")[2] for line in log(run).splitlines() if line.startswith(f"== job {job_id}, ")
    ]
    assert [mark.partition(",")[0] for mark in marks] == [
        *("attempt 1 of 21", "requeued", "attempt 2 of 21", "exit code 0")
    ]
    kakurenbo("launch", "digits_kakurenbo", "--ranks", 2, "--run-dir", alone, *LONG)
    assert metrics(run) == metrics(alone)


def test_srun_starts_ranks_which_are_interrupted_and_requeued(slurm, kakurenbo, slurm_machine, tmp_path):
    run = tmp_path / "run"
    here = slurm_machine(starter="srun", mpi="pmix", ranks_per_node=2, cores_per_node=2)
    kakurenbo(
        "submit",
        "digits_kakurenbo",
        "--machine",
        here,
        "--walltime",
        "10m",
        "--run-dir",
        run,
        "--set",
        "training.epochs=2000",
    )
    job_id = (run / "batch" / "jobs.txt").read_text().strip()
    until(lambda: metrics(run), lambda: log(run))
    assert "srun --nodes=1 --ntasks=2" in log(run) and "2 ranks on cpu" in log(run)
    slurm.say("scancel", "--signal=USR1", "--batch", job_id)
    until(lambda: "Restarts=1" in slurm.say("scontrol", "show", "job", job_id), lambda: log(run))
    assert (run / "batch" / "exit_code").read_text() == "75\n"
    kakurenbo("cancel", run)


@pytest.mark.nightly
def test_a_comparison_is_an_array_and_a_job_after_it_that_writes_the_table(
    kakurenbo, slurm_machine, tmp_path
):
    file = tmp_path / "tiny.yaml"
    contenders = {"kakurenbo": {"selection": {"method": "kakurenbo", "max_fraction": 0.5}}}
    epochs = {"training": {"epochs": 2, "warmup_epochs": 0}}
    file.write_text(
        yaml.safe_dump(
            {
                "name": "tiny",
                "job": "digits_everything",
                "set": epochs,
                "contenders": contenders,
                "seeds": [1],
            }
        )
    )
    words = ["--machine", slurm_machine(), "--walltime", "10m", "--out", tmp_path / "out", "--limit", 1]
    said = kakurenbo("submit", "compare", file, *words)
    assert "jobs " in said and "1 at a time" in said and "tiny_table" in said
    table = tmp_path / "out" / "tiny"
    assert ended(kakurenbo, table, seconds=300) == "done", log(table)
    assert "| kakurenbo " in (table / "table.md").read_text()
    runs = [run for run in (tmp_path / "out" / "runs").iterdir() if (run / "batch" / "jobs.txt").exists()]
    assert len(runs) == 2 and all("exit code 0" in log(run) for run in runs)
    assert log(table).index("== job ") < log(table).index("run 1 of 2: everything, seed 1: ")


@pytest.mark.nightly
def test_a_sweep_is_one_run_for_each_size(kakurenbo, slurm_machine, tmp_path):
    run = tmp_path / "sweep"
    words = ["--nodes", "1,2", "--scaling", "weak", "--walltime", "10m", "--run-dir", run, *SHORT]
    said = kakurenbo("submit", "digits_everything", "--machine", slurm_machine(), *words)
    assert said.count("follow: ") == 2
    runs = [run / "nodes_0001", run / "nodes_0002"]
    assert [ended(kakurenbo, one) for one in runs] == ["done", "done"], log(runs[1])
    assert [json.loads((one / "provenance.json").read_text())["global_batch"] for one in runs] == [60, 120]
    assert kakurenbo("status", run).count(" done ") == 2


def test_the_doctor_looks_at_the_ranks_of_an_allocation(slurm, slurm_machine):
    words = [
        sys.executable,
        "-m",
        "kakurenbo_hpc.cli",
        "doctor",
        "digits_kakurenbo",
        "--machine",
        slurm_machine(),
        "--ranks",
        2,
        "--walltime",
        "2h",
    ]
    done = subprocess.run(
        ["salloc", "--quiet", "--nodes=2", "--ntasks-per-node=1", *map(str, words)],
        env=environment() | {"SLURM_CONF": str(slurm.conf)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    lines = {line[6:].split("  ")[0].strip(): line for line in done.stdout.splitlines()}
    assert lines["ranks"].startswith("OK    ranks      2 talk to each other, on "), done.stdout + done.stderr
    assert " of gradients at " in lines["allreduce"]
    assert lines["scheduler"] == "OK    scheduler  slurm answers, queue all, jobs of at most 01:00:00"
    assert (
        "--walltime 2h: the queue ends jobs after 01:00:00; give less" in lines["walltime"]
        and done.returncode == 1
    )


@pytest.fixture
def in_process(slurm, command_line, monkeypatch):
    """The command line in this process, where this Slurm is the batch system."""
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    return command_line


def test_a_job_is_what_its_script_says_wherever_it_is_submitted_from(slurm, quick_machine, tmp_path):
    """In an allocation whose variables contradict the script, and with the user's defaults."""
    run = tmp_path / "run"
    words = ["submit", "digits_kakurenbo", "--machine", quick_machine(0, memory_gib=1), "--walltime", "10m"]
    words = [sys.executable, "-m", "kakurenbo_hpc.cli", *words, "--run-dir", run]
    defaults = {"SBATCH_TIMELIMIT": "7", "SBATCH_JOB_NAME": "mine", "SBATCH_PARTITION": "one"}
    done = subprocess.run(
        ["salloc", "--quiet", "--nodes=1", "--mem-per-cpu=10", *map(str, words)],
        env=environment() | {"SLURM_CONF": str(slurm.conf)} | defaults,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert f"passed on to the batch system: SBATCH_PARTITION=one, SLURM_CONF={slurm.conf}\n" in done.stderr
    job_id = (run / "batch" / "jobs.txt").read_text().strip()
    shown = slurm.say("scontrol", "show", "job", job_id)
    for fact in ("TimeLimit=00:10:00", "JobName=digits_kakurenbo", "Partition=one", "MinMemoryNode=1G"):
        assert fact in shown, shown
    until(lambda: "JobState=COMPLETED" in slurm.say("scontrol", "show", "job", job_id), lambda: log(run))


def test_what_slurm_would_keep_for_ever_is_refused_and_forced_shows_why_it_waits(
    quick_machine, in_process, tmp_path
):
    run = tmp_path / "run"
    with pytest.raises(AssertionError, match="partition down is down; .* --force submits all the same"):
        submit(in_process, quick_machine(0, queue="down"), run)
    with pytest.raises(AssertionError, match="queue short ends jobs after 00:05:00; give less"):
        submit(in_process, quick_machine(0, queue="short"), run)
    with pytest.raises(AssertionError, match="sbatch refuses: allocation failure: Requested node config"):
        submit(in_process, quick_machine(0), run, "--nodes", 3)
    with pytest.raises(AssertionError, match=r"sbatch refuses: .*Invalid generic resource \(gres\)"):
        submit(in_process, quick_machine(0, gpus_per_node=2, ranks_per_node=2), run)
    assert not run.exists()
    submit(in_process, quick_machine(0, queue="down"), run / "down", "--force")
    submit(in_process, quick_machine(0, queue="short"), run / "short", "--force")
    submit(in_process, quick_machine(0, extra=["--hold"]), run / "held")
    failed = submit(in_process, quick_machine(3), run / "failed")
    submit(in_process, quick_machine(0), run / "after", "--dependency", f"afterok:{failed}")
    assert ended(in_process, run / "after") == "failed"
    shown = in_process("status", run)
    for reason in ("PartitionDown", "PartitionTimeLimit", "JobHeldUser", "DependencyNeverSatisfied"):
        assert reason in shown, shown
    in_process("cancel", run)
    assert in_process("status", run).count(" cancelled ") == 3


def test_a_task_of_an_array_is_requeued_alone(slurm, slurm_machine, in_process, tmp_path):
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    once = 'run=${4%/batch/job.yaml}; [ "${run##*/}" != seed_1 ] || [ -e "$run/once" ] || '
    python.write_text(f'#!/bin/sh\n{once}{{ touch "$run/once"; exit 75; }}\n')
    python.chmod(0o755)
    sweep, here = tmp_path / "sweep", slurm_machine(python=str(tmp_path / "env"))
    words = ["--machine", here, "--walltime", "10m", "--run-dir", sweep]
    in_process("submit", "digits_kakurenbo", *words, "--array-of-seeds", "1-3%2")

    def states() -> list[str]:
        return [run["state"] for run in json.loads(in_process("status", sweep, "--json"))]

    until(lambda: states() == ["queued", "done", "done"], lambda: str(states()))
    task = (sweep / "seed_1" / "batch" / "jobs.txt").read_text().strip()
    assert task.endswith("_0") and " Restarts=1 " in slurm.say("scontrol", "show", "job", task)
    in_process("submit", "digits_kakurenbo", *words[:-1], tmp_path / "next", "--after", sweep / "seed_1")
    slurm.say("scontrol", "update", f"JobId={task}", "StartTime=now+2")
    assert ended(in_process, tmp_path / "next") == "done"
    assert states() == ["done"] * 3
    assert [log(sweep / f"seed_{seed}").count("attempt") for seed in (1, 2, 3)] == [2, 1, 1]


def test_a_controller_that_is_away_hides_no_epochs(slurm, quick_machine, in_process, tmp_path):
    run = tmp_path / "run"
    submit(in_process, quick_machine(0, extra=["--hold"]), run)
    (run / "metrics.jsonl").write_text('{"epoch": 4}\n')
    with slurm.away():
        assert state(in_process, run) == "unknown"
        row = in_process("status", run).splitlines()[1].removeprefix(str(run)).split()
        assert row[1:3] == ["unknown", "5/12"] and "squeue" in row
    assert state(in_process, run) == "queued"
    in_process("cancel", run)


def test_what_slurm_refuses_is_one_line(slurm_machine, slurm, tmp_path):
    words = [
        "submit",
        "digits_kakurenbo",
        "--machine",
        slurm_machine(queue="none"),
        "--walltime",
        "10m",
        "--run-dir",
        tmp_path / "run",
        "--force",
    ]
    env = environment() | {"SLURM_CONF": str(slurm.conf)}
    done = subprocess.run(
        [sys.executable, "-m", "kakurenbo_hpc.cli", *map(str, words)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert (
        done.stderr.startswith("kakurenbo: sbatch refuses: ")
        and "invalid partition" in done.stderr
        and done.stderr.count("\n") == 1
    )


@pytest.mark.parametrize(
    ("said", "word", "detail"),
    [
        ("COMPLETED|0:0|00:01:02|None|12", "done", "COMPLETED 0:0 00:01:02"),
        ("CANCELLED by 1000|0:15|00:01:02|None|12", "cancelled", "CANCELLED by 1000 0:15 00:01:02"),
        ("TIMEOUT|0:0|01:00:02|None|12", "failed", "TIMEOUT 0:0 01:00:02"),
        ("REQUEUED|0:0|00:00:00|None|12", "queued", "REQUEUED 0:0 00:00:00"),
        ("SUSPENDED|0:0|00:01:02|None|12", "running", "SUSPENDED 0:0 00:01:02"),
        ("LAUNCH_FAILED|0:0|00:00:00|None|12", "failed", "LAUNCH_FAILED 0:0 00:00:00"),
    ],
)
def test_where_slurm_keeps_accounts_sacct_is_asked(said, word, detail, tmp_path, monkeypatch):
    sacct = tmp_path / "sacct"
    sacct.write_text(f"#!/bin/sh\necho '{said}'\n")
    sacct.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert Slurm().job_state("12")[:2] == (word, detail)
