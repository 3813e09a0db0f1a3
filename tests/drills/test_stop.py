"""Runs that are asked to leave: all ranks go at the same step, with exit code 75, and the run taken up is the
one that went through.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch
from support.batch_runs import metrics, until
from support.start_ranks import command, environment, start, train

from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.preemption import Preemption

LEFT_AND_TAKEN_UP = Path(__file__).parent / "programs" / "left_and_taken_up.py"
HELD_TRAIN = Path(__file__).parent / "programs" / "held_train.py"
EPOCHS = 12
JOB = ["digits_kakurenbo", "--set", "record.ledger=false", "--set", "selection.confidence=0.3"]


@pytest.mark.parametrize(
    ("n", "variants"),
    [
        (1, "selective_backprop,sample_importance online,iswr"),
        (2, "kakurenbo in train mode,kath18,infobatch"),
        (3, "kakurenbo"),
        (4, "everything"),
    ],
)
def test_a_run_left_at_any_step_goes_on_bit_for_bit(n, variants, tmp_path):
    ended = start(n, LEFT_AND_TAKEN_UP, tmp_path, 1, variants, timeout=400)
    assert ended.returncode == 0, ended.stderr[-2000:]
    for variant in variants.split(","):
        left = [
            line.split(" left in ")[1].split()[0]
            for line in ended.stdout.splitlines()
            if line.startswith(f"{variant} left")
        ]
        assert {"train", "evaluate", "checkpoint"} | (
            {"refresh"} if "kakurenbo" in variant else set()
        ) <= set(left)


def outcome(run):
    learner = torch.load(run / "checkpoints" / f"epoch_{EPOCHS - 1:04d}" / "learner.pt", weights_only=True)
    return metrics(run), {k: v.tolist() for k, v in learner["model"].items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    assert train(2, *JOB, "--run-dir", run).returncode == 0
    return outcome(run)


def begun(run, *words, **more):
    """Start the job on two ranks."""
    line = [*command("mpirun", 2), *words, *JOB, "--run-dir", run]
    return subprocess.Popen(
        list(map(str, line)),
        env=environment() | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def a_rank(started):
    """Return the process of one rank."""
    return next(
        p
        for p in psutil.Process(started.pid).children(recursive=True)
        if p.cmdline()[1:2] == [str(HELD_TRAIN)]
    )


ASKED = {
    "USR1 to one rank": lambda started, run: a_rank(started).send_signal(signal.SIGUSR1),
    "TERM to one rank, twice": lambda started, run: [
        a_rank(started).send_signal(signal.SIGTERM) for _ in range(2)
    ],
    "INT to one rank": lambda started, run: a_rank(started).send_signal(signal.SIGINT),
    "USR2 to one rank": lambda started, run: a_rank(started).send_signal(signal.SIGUSR2),
    "USR1 to mpirun": lambda started, run: started.send_signal(signal.SIGUSR1),
    "the file": lambda started, run: (run / "stop").write_text("the queue wants its nodes back\n"),
}


@pytest.mark.parametrize("how", ASKED)
def test_whoever_is_asked_all_leave_together_and_the_run_goes_on(how, whole, tmp_path):
    run = tmp_path / "run"
    started = begun(run, HELD_TRAIN)
    until(lambda: len(metrics(run)) == 2 or started.poll() is not None, lambda: "no second epoch has ended")
    ASKED[how](started, run)
    told, _ = started.communicate(timeout=120)
    assert started.returncode == 75, told
    assert "leaving in epoch 3" in told and "add --resume to go on" in told
    if how == "the file":
        assert "the queue wants its nodes back" in told
    assert not (run / "stop").exists()
    assert len(metrics(run)) == 2
    again = train(2, *JOB, "--run-dir", run, "--resume")
    assert again.returncode == 0, again.stderr
    assert outcome(run) == whole


def test_the_deadline_ends_a_run_in_time(tmp_path):
    run = tmp_path / "run"
    started = begun(run, "-m", "kakurenbo_hpc.cli", "train", KAKURENBO_DEADLINE=str(time.time() - 1))
    told, _ = started.communicate(timeout=100)
    assert started.returncode == 75 and "the allotted time is over" in told


def test_a_finished_run_that_is_started_again_is_done_at_once(tmp_path):
    run, job = (
        tmp_path / "run",
        [*JOB, "--set", "training.epochs=2", "--set", "selection.fraction_epochs=[0]"],
    )
    assert train(1, *job, "--run-dir", run).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    again = train(1, *job, "--run-dir", run, "--resume")
    assert again.returncode == 0 and "all 2 epochs are done" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_deadline_that_is_no_time_is_told(tmp_path):
    ended = subprocess.run(
        [*command("alone", 1), "-m", "kakurenbo_hpc.cli", "train", *JOB, "--run-dir", str(tmp_path / "run")],
        env=environment() | {"KAKURENBO_DEADLINE": "noon"}, capture_output=True, text=True, cwd=os.getcwd(),
    )  # fmt: skip
    assert (
        ended.returncode == 2
        and "KAKURENBO_DEADLINE is 'noon'" in ended.stderr
        and ended.stderr.count("\n") == 1
    )


def test_a_stop_file_that_comes_before_a_run_has_begun_is_heeded(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "stop").touch()
    ended = train(1, *JOB, "--run-dir", run)
    assert ended.returncode == 75 and f"{run}/stop is there" in ended.stdout, ended.stdout + ended.stderr
    assert not (run / "stop").exists()


def test_a_signal_that_comes_too_late_for_a_run_is_heard_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("kakurenbo_hpc.distributed.preemption.received", [])
    with Preemption(SerialComm(), tmp_path, {}):
        os.kill(os.getpid(), signal.SIGUSR1)
    with Preemption(SerialComm(), tmp_path, {}) as stop:
        assert stop.should_stop_now() and stop.why == "SIGUSR1 came to rank 0"


def test_a_stop_that_cannot_be_read_is_heeded(tmp_path):
    (tmp_path / "stop").mkdir()
    with Preemption(SerialComm(), tmp_path, {}) as stop:
        assert stop.should_stop_now()
    assert stop.why == f"{tmp_path}/stop is there"


def test_a_signal_that_comes_while_a_run_still_begins_is_heeded(tmp_path):
    run = tmp_path / "run"
    words = [*command("alone", 1), "-m", "kakurenbo_hpc.cli", "train", *JOB, "--run-dir", str(run)]
    started = subprocess.Popen(
        words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    status = Path(f"/proc/{started.pid}/status")
    while (
        not int(
            next(line for line in status.read_text().splitlines() if line.startswith("SigCgt")).split()[1], 16
        )
        >> 9
        & 1
    ):
        time.sleep(0.001)  # until it listens to USR1
    started.send_signal(signal.SIGUSR1)
    told, _ = started.communicate(timeout=60)
    assert started.returncode == 75 and "leaving in epoch 1" in told, told
