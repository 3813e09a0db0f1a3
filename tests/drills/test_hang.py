"""Ranks that stop: the others say where everybody was, and leave. Ranks that are only slow are waited for."""

import itertools
import os
import threading
import time
from pathlib import Path

import pytest
from support.start_ranks import start

from kakurenbo_hpc.rundir.watchdog.heartbeat import STAGE_NAMES, Heartbeat, Position, read_beats
from kakurenbo_hpc.rundir.watchdog.watchdog import Watchdog

STRUCK_TRAIN = Path(__file__).parent / "programs" / "struck_train.py"
HOST = os.uname().nodename


def test_a_rank_that_is_stopped_is_named_by_all_others_who_leave(tmp_path):
    job = [
        "digits_everything",
        "--run-dir",
        tmp_path / "run",
        "--set",
        "record.hang_timeout=6",
        "--set",
        "training.epochs=100000",
    ]
    done = start(3, STRUCK_TRAIN, "SIGSTOP", 1, 0, "train", 4, tmp_path / "told", *job, timeout=150)
    assert done.returncode == 1
    for rank in (0, 2):
        [told] = [
            line
            for line in done.stderr.splitlines()
            if line.startswith(f"kakurenbo: rank {rank} of 3 on {HOST}: ")
        ]
        assert (
            "no rank has come further for" in told
            and "record.hang_timeout is 6" in told
            and "add --resume to go on" in told
        )
        assert f"rank 1 on {HOST}: epoch " in told and "no sign of life (process " in told
        assert f"rank {rank} of 3 on {HOST}, what its threads were at:" in done.stderr
        assert done.stderr.count(f"  rank {rank} on {HOST}: epoch ") == 2, "told by both"
    assert done.stderr.count('kakurenbo_hpc/engine/epoch.py"') == 2, (
        "the stacks say where in the code they wait"
    )


@pytest.mark.nightly
def test_a_rank_that_stops_before_the_first_epoch_is_missed(tmp_path):
    job = ["digits_everything", "--run-dir", tmp_path / "run", "--set", "record.hang_timeout=3"]
    done = start(2, STRUCK_TRAIN, "SIGSTOP", 1, 0, "set-up", 0, tmp_path / "told", *job, timeout=150)
    assert done.returncode == 1
    [told] = [line for line in done.stderr.splitlines() if line.startswith("kakurenbo: ")]
    stopped = ("rank 1 without a heartbeat;", f"rank 1 on {HOST}: epoch 1, set-up, no sign of life")
    assert "no rank has come further for" in told and any(words in told for words in stopped)


@pytest.fixture
def watched(tmp_path):
    """A rank 0 that comes no further, beside a rank 1 that does what a test lets it do."""
    mine, other, left = Heartbeat(), Heartbeat(), threading.Event()
    for heartbeat in (mine, other):
        heartbeat.enter(3, "train")
    with Watchdog(mine, tmp_path, 0, 2, 2.0, left.set):
        yield other, left, lambda: other.write(tmp_path, 1)


def until_left(left, beat, seconds):
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up and not left.wait(0.3):
        beat()
    return left.is_set()


@pytest.mark.unit
def test_a_rank_that_waits_for_one_that_goes_on_does_not_leave(watched, capsys):
    other, left, beat = watched

    def on_progress():
        other.at = other.at._replace(step=other.at.step + 1)
        beat()

    assert not until_left(left, on_progress, 9)
    assert until_left(left, beat, 60), "now it has stopped, too"
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.endswith(f"rank 0 on {HOST}: epoch 4, train, is behind; add --resume to go on")


@pytest.mark.unit
def test_a_rank_that_gives_no_sign_of_life_is_named(watched, capsys):
    other, left, beat = watched
    beat()
    assert until_left(left, lambda: None, 60)
    assert (
        f"rank 1 on {HOST}: epoch 4, train, no sign of life (process {os.getpid()})"
        in capsys.readouterr().err.splitlines()[-1]
    )


@pytest.mark.unit
def test_what_takes_long_but_moves_is_no_hang(monkeypatch):
    heartbeat, clock = Heartbeat(), itertools.count(step=100)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    heartbeat.enter(0, "staging")
    for _ in heartbeat.passing("abc"):
        assert heartbeat.idle_s == 100 and str(heartbeat.at) == "epoch 1, staging"
    assert heartbeat.idle_s == 200


@pytest.mark.unit
def test_a_beat_is_read_as_it_was_written_and_one_that_is_torn_or_missing_is_none(tmp_path):
    heartbeat = Heartbeat()
    heartbeat.enter(2, "refresh")
    heartbeat.write(tmp_path, 0)
    heartbeat.write(tmp_path, 1)
    (tmp_path / "heartbeat" / "rank_0001.json").write_text('{"rank": 1, "ho')
    beats = read_beats(tmp_path, 3)
    assert (beats[0].rank, beats[0].host, beats[0].pid, beats[0].at) == (
        0,
        HOST,
        os.getpid(),
        Position(2, STAGE_NAMES.index("refresh"), 0),
    )
    assert beats[1:] == [None, None]
    assert str(beats[0].at) == "epoch 3, refresh"


@pytest.mark.unit
def test_neither_a_clock_that_jumps_nor_a_full_disk_disturbs_the_watch(tmp_path, monkeypatch, capsys):
    heartbeat, left, days = Heartbeat(), threading.Event(), itertools.count()
    monkeypatch.setattr(time, "time", lambda: 86400.0 * next(days))
    (tmp_path / "heartbeat").write_text("a file, where the folder should be")
    with Watchdog(heartbeat, tmp_path, 0, 1, 2.0, left.set):
        for _ in range(14):
            heartbeat.enter(0, "train")
            assert not left.wait(0.5)
    assert capsys.readouterr().err == ""
