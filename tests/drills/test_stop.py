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
from drills.programs.left_and_taken_up import leave_and_take_up
from support.batch_runs import metrics, until
from support.runs import same_parameters, train_here
from support.start_ranks import command, environment, train

from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.preemption import DEADLINE, Preemption
from kakurenbo_hpc.errors import DONE, REQUEUE, WorldError
from kakurenbo_hpc.rundir.watchdog.heartbeat import Heartbeat

HELD_TRAIN = Path(__file__).parent / "programs" / "held_train.py"
EPOCHS = 4
SETS = [f"training.epochs={EPOCHS}", "record.ledger=false"]
SETS += ["selection.confidence=0.3", "selection.fraction_epochs=[0]"]
JOB = ["digits_kakurenbo", *(word for setting in SETS for word in ("--set", setting))]


@pytest.mark.ranks(3)
@pytest.mark.parametrize(
    ("n", "variant"),
    [
        (1, "selective_backprop"),
        (1, "sample_importance online"),
        (1, "iswr"),
        (2, "kakurenbo in train mode"),
        (2, "kath18"),
        pytest.param(2, "infobatch", marks=pytest.mark.nightly),
        (3, "kakurenbo"),
    ],
)
def test_a_run_left_at_any_step_goes_on_bit_for_bit(n, variant, comm_of, tmp_path, monkeypatch):
    if comm := comm_of(n):
        refreshes = {"refresh"} if "kakurenbo" in variant else set()
        left = leave_and_take_up(comm, tmp_path, variant, monkeypatch)
        assert {"train", "evaluate", "checkpoint"} | refreshes <= left


@pytest.mark.nightly
@pytest.mark.ranks(4)
def test_a_run_left_by_four_ranks_goes_on_bit_for_bit(comm, tmp_path, monkeypatch):
    assert {"train", "evaluate", "checkpoint"} <= leave_and_take_up(comm, tmp_path, "everything", monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    assert train(2, *JOB, "--run-dir", run).returncode == 0
    return run


def a_rank(started):
    """Return the process of one rank."""
    return next(
        p
        for p in psutil.Process(started.pid).children(recursive=True)
        if p.cmdline()[1:2] == [str(HELD_TRAIN)]
    )


ASKED = {
    "USR1 to one rank": lambda started: a_rank(started).send_signal(signal.SIGUSR1),
    "TERM to one rank, twice": lambda started: [
        a_rank(started).send_signal(signal.SIGTERM) for _ in range(2)
    ],
    "INT to one rank": lambda started: a_rank(started).send_signal(signal.SIGINT),
    "USR2 to one rank": lambda started: a_rank(started).send_signal(signal.SIGUSR2),
    "USR1 to mpirun": lambda started: started.send_signal(signal.SIGUSR1),
}


# Each signal to one rank, inside a process that sends it to itself: test_signals.
@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=[pytest.mark.nightly] * (how != "USR1 to mpirun")) for how in ASKED]
)
def test_whoever_is_asked_all_leave_together_and_the_run_goes_on(how, whole, tmp_path):
    run = tmp_path / "run"
    line = [*command("mpirun", 2), HELD_TRAIN, *JOB, "--run-dir", run]
    started = subprocess.Popen(
        list(map(str, line)),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    until(lambda: len(metrics(run)) == 2 or started.poll() is not None, lambda: "no second epoch has ended")
    ASKED[how](started)
    told, _ = started.communicate(timeout=120)
    assert started.returncode == 75, told
    assert "leaving in epoch 3" in told and "add --resume to go on" in told
    assert len(metrics(run)) == 2
    again = train(2, *JOB, "--run-dir", run, "--resume")
    assert again.returncode == 0, again.stderr
    assert metrics(run) == metrics(whole)
    assert same_parameters(run, whole, EPOCHS - 1)


@pytest.mark.ranks(2)
def test_a_run_is_asked_to_leave_by_a_file_that_says_why(comm, tmp_path, monkeypatch, capsys):
    """Between two steps of the third epoch all ranks wait until rank 0 has seen it."""
    run, at, enter, should_stop = tmp_path / "run", {}, Heartbeat.enter, Preemption.should_stop

    def entered(heartbeat, epoch, stage):
        enter(heartbeat, epoch, stage)
        at.update(epoch=epoch, stage=stage)
        if (epoch, stage, comm.rank) == (2, "train", 0):
            (run / "stop").write_text("the queue wants its nodes back\n")

    def held(preemption):
        while (at["epoch"], at["stage"]) == (2, "train") and not any(comm.gather(preemption._asked())):
            time.sleep(0.01)
        return should_stop(preemption)

    monkeypatch.setattr(Heartbeat, "enter", entered)
    monkeypatch.setattr(Preemption, "should_stop", held)
    assert train_here("digits_kakurenbo", SETS, run, comm) == REQUEUE
    comm.barrier()
    told = comm.broadcast(capsys.readouterr().out)
    assert "leaving in epoch 3" in told and "the queue wants its nodes back" in told
    assert not (run / "stop").exists()
    assert len(metrics(run)) == 2


@pytest.mark.ranks(2)
def test_the_deadline_ends_a_run_in_time(comm, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(DEADLINE, str(time.time() - 1))
    assert train_here("digits_kakurenbo", SETS, tmp_path / "run", comm) == REQUEUE
    assert "the allotted time is over" in comm.broadcast(capsys.readouterr().out)


@pytest.mark.unit
def test_a_finished_run_that_is_started_again_is_done_at_once(tmp_path, capsys):
    run, sets = tmp_path / "run", [*SETS, "training.epochs=2"]
    assert train_here("digits_kakurenbo", sets, run, SerialComm()) == DONE
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert train_here("digits_kakurenbo", sets, run, SerialComm(), resume=True) == DONE
    assert "all 2 epochs are done" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.unit
def test_a_deadline_that_is_no_time_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv(DEADLINE, "noon")
    with pytest.raises(WorldError, match="^KAKURENBO_DEADLINE is 'noon'.*$"):
        train_here("digits_kakurenbo", SETS, tmp_path / "run", SerialComm())


@pytest.mark.unit
def test_a_stop_file_that_comes_before_a_run_has_begun_is_heeded(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "stop").touch()
    assert train_here("digits_kakurenbo", SETS, run, SerialComm()) == REQUEUE
    assert f"{run}/stop is there" in capsys.readouterr().out
    assert not (run / "stop").exists()


@pytest.mark.unit
def test_a_signal_that_comes_too_late_for_a_run_is_heard_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("kakurenbo_hpc.distributed.preemption.received", [])
    with Preemption(SerialComm(), tmp_path, {}):
        os.kill(os.getpid(), signal.SIGUSR1)
    with Preemption(SerialComm(), tmp_path, {}) as stop:
        assert stop.should_stop_now() and stop.why == "SIGUSR1 came to rank 0"


@pytest.mark.unit
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
