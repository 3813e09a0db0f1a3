"""Two runs in one run directory: the second is refused; once the first has ended, however it did, it may."""

import os
import signal
import subprocess

import pytest
from ranks import command, environment, train
from runs import until

from kakurenbo_hpc.errors import RunDirectoryError
from kakurenbo_hpc.record.lock import Lock

JOB = ["digits_everything", "--set", "training.epochs=100000"]


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path):
    run = tmp_path / "run"
    words = [*command("alone", 1), "-m", "kakurenbo_hpc.cli", "train", *JOB, "--run-dir", str(run)]
    first = subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL)
    try:
        until(lambda: (run / "metrics.jsonl").exists(), lambda: f"the first run has ended with {first.poll()}")
        second = train(2, *JOB, "--run-dir", run, "--resume")
        [told] = [line for line in second.stderr.splitlines() if line.startswith("kakurenbo: ")]
        assert second.returncode == 2
        holder = f"process {first.pid} on {os.uname().nodename}"
        assert told == f"kakurenbo: {run}: a run is under way here, held by {holder}; wait for its end, or give another --run-dir"
        assert first.poll() is None and holder in (run / "lock").read_text()
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    resumed = subprocess.Popen([*words, "--resume"], env=environment(), stdout=subprocess.DEVNULL)
    try:
        until(lambda: f"process {resumed.pid} on" in (run / "lock").read_text(), lambda: f"the third run has ended with {resumed.poll()}")
    finally:
        resumed.send_signal(signal.SIGTERM)
        assert resumed.wait(timeout=100) == 75


def test_the_lock_goes_with_its_holder(tmp_path):
    with Lock(tmp_path) as held:
        held.take()
        held.sign()
        other = f"from kakurenbo_hpc.record.lock import Lock; from pathlib import Path; Lock(Path({str(tmp_path)!r})).take()"
        refused = subprocess.run(["python", "-c", other], capture_output=True, text=True)
        assert f"RunDirectoryError: {tmp_path}: a run is under way here, held by process {os.getpid()} on " in refused.stderr
    assert subprocess.run(["python", "-c", other]).returncode == 0


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, capsys):
    def lockf(handle, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.lockf", lockf)
    with Lock(tmp_path) as lock:
        lock.take()
        lock.sign()
    assert "knows no locks; take care that no other run is started here" in capsys.readouterr().out
    monkeypatch.setattr("fcntl.lockf", lambda handle, how: (_ for _ in ()).throw(OSError(11, "Resource temporarily unavailable")))
    with pytest.raises(RunDirectoryError, match="a run is under way here, held by another process"):
        Lock(tmp_path).take()
