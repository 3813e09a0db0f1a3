"""Two runs in one run directory: the second is refused; once the first has ended, however it did, it may."""

import os
import signal
import subprocess
import sys

import pytest
from support.batch_runs import until
from support.start_ranks import command, environment, train

from kakurenbo_hpc.errors import RunDirectoryError
from kakurenbo_hpc.rundir.lock import Lock
from kakurenbo_hpc.rundir.watchdog.heartbeat import Heartbeat

pytestmark = pytest.mark.unit
JOB = [
    "digits_everything",
    "--set",
    "training.epochs=100000",
    "--set",
    "record.hang_timeout=60",
]  # a heartbeat every second


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path):
    run = tmp_path / "run"
    words = [*command("alone", 1), "-m", "kakurenbo_hpc.cli", "train", *JOB, "--run-dir", str(run)]
    first = subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL)
    try:
        until(
            lambda: (run / "metrics.jsonl").exists(), lambda: f"the first run has ended with {first.poll()}"
        )
        second = train(1, *JOB, "--run-dir", run, "--resume")
        [told] = [line for line in second.stderr.splitlines() if line.startswith("kakurenbo: ")]
        assert second.returncode == 2
        holder = f"process {first.pid} on {os.uname().nodename}"
        assert (
            told == f"kakurenbo: {run}: a run is under way here, held by {holder}; wait for its end, or give "
            "another --run-dir"
        )
        assert first.poll() is None and holder in (run / "lock").read_text()
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    resumed = subprocess.Popen([*words, "--resume"], env=environment(), stdout=subprocess.DEVNULL)
    try:
        until(
            lambda: f"process {resumed.pid} on" in (run / "lock").read_text(),
            lambda: f"the third run has ended with {resumed.poll()}",
        )
    finally:
        resumed.send_signal(signal.SIGTERM)
        assert resumed.wait(timeout=100) == 75


def test_the_lock_goes_with_its_holder(tmp_path):
    other = (
        "from kakurenbo_hpc.rundir import lock; from pathlib import Path; lock._LEASE_S = 0; "
        f"lock.Lock(Path({str(tmp_path)!r})).take()"
    )
    with Lock(tmp_path) as held:
        held.take()
        held.sign()
        refused = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
        assert (
            f"RunDirectoryError: {tmp_path}: a run is under way here, held by process {os.getpid()} on "
            in refused.stderr
        )
    assert subprocess.run([sys.executable, "-c", other]).returncode == 0


@pytest.fixture
def held(tmp_path):
    """A process that has the lock, and gives no other sign of life."""
    other = (
        "from kakurenbo_hpc.rundir.lock import Lock; from pathlib import Path; "
        f"Lock(Path({str(tmp_path)!r})).take(); print('held')"
    )
    holder = subprocess.Popen(
        [sys.executable, "-u", "-c", f"{other}; input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    yield holder
    holder.kill()
    holder.wait()


def waiting(monkeypatch, *happens):
    """Let these things happen, one after the other, where a lock is waited for."""
    coming = iter(happens)
    monkeypatch.setattr("time.sleep", lambda seconds: next(coming)())


def test_a_lock_that_outlives_its_holder_is_waited_for(held, tmp_path, monkeypatch, capsys):
    beat(tmp_path)
    waiting(monkeypatch, lambda: None, lambda: (held.kill(), held.wait()))
    with Lock(tmp_path) as lock:
        lock.take()
    assert capsys.readouterr().out.count("held by another process; waiting up to 120 s") == 1


def test_a_holder_that_lives_is_not_waited_for(held, tmp_path, monkeypatch):
    heartbeat = beat(tmp_path)
    waiting(monkeypatch, lambda: None, lambda: heartbeat.write(tmp_path, 0))
    with pytest.raises(RunDirectoryError, match="a run is under way here, held by another process"):
        Lock(tmp_path).take()


def beat(run):
    heartbeat = Heartbeat()
    heartbeat.enter(0, "train")
    heartbeat.write(run, 0)
    return heartbeat


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, capsys):
    def lockf(handle, how, *part):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.lockf", lockf)
    with Lock(tmp_path) as lock:
        lock.take()
        lock.sign()
    assert "knows no locks; take care that no other run is started here" in capsys.readouterr().out
    heartbeat = beat(tmp_path)
    waiting(monkeypatch, lambda: heartbeat.write(tmp_path, 0))
    with pytest.raises(RunDirectoryError, match="a run is under way here, held by another process"):
        Lock(tmp_path).take()
    waiting(monkeypatch, lambda: None, lambda: monkeypatch.setattr("kakurenbo_hpc.rundir.lock._BEATS_S", 0))
    Lock(tmp_path).take()
    assert "knows no locks" in capsys.readouterr().out, "the run of that heartbeat has ended"
