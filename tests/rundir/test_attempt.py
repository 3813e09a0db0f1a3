"""Attempts: their numbers, the fence against older ranks, and the lock that launcher and ranks share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kakurenbo_hpc.errors import FAILED, RunDirectoryError
from kakurenbo_hpc.rundir.attempt import VARIABLE, Attempt
from kakurenbo_hpc.rundir.lock import Lock
from kakurenbo_hpc.rundir.watchdog.heartbeat import Heartbeat, clear, read_beats, seconds_since_beat
from kakurenbo_hpc.rundir.watchdog.watchdog import Watchdog, is_watcher


def test_attempts_are_counted_over_all_launches_of_a_run(tmp_path):
    first, second = Attempt.begin(tmp_path), Attempt.begin(tmp_path)
    assert (first.number, second.number) == (1, 2) and first.word != second.word
    assert Attempt.of_this_process(tmp_path, second.environment) == second


def test_an_attempt_is_over_once_another_has_begun(tmp_path):
    alone, first = Attempt.of_this_process(tmp_path, {}), Attempt.begin(tmp_path)
    assert not alone.is_over() and not first.is_over()
    (tmp_path / "attempt").rename(tmp_path / "away")
    assert not first.is_over(), "a file that cannot be read now is no later attempt"
    (tmp_path / "away").rename(tmp_path / "attempt")
    second = Attempt.begin(tmp_path)
    assert first.is_over() and not second.is_over() and not alone.is_over()


RANK = """
import sys, time
from pathlib import Path
from kakurenbo_hpc.rundir.attempt import Attempt
from kakurenbo_hpc.rundir.watchdog.heartbeat import Heartbeat
from kakurenbo_hpc.rundir.watchdog.watchdog import Watchdog

run = Path(sys.argv[1])
attempt = Attempt.of_this_process(run)
heartbeat = Heartbeat(attempt.number)
heartbeat.enter(0, "train")
with Watchdog(heartbeat, run, 0, 1, 60.0, lambda: None, attempt):
    print("trains", flush=True)
    time.sleep(60)
"""


def test_a_rank_of_an_older_attempt_leaves_and_writes_no_heartbeat(tmp_path):
    first = Attempt.begin(tmp_path)
    rank = subprocess.Popen(
        [sys.executable, "-c", RANK, str(tmp_path)],
        env=os.environ | first.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert rank.stdout.readline() == "trains\n"
    Attempt.begin(tmp_path)
    said = rank.communicate(timeout=30)[1]
    assert rank.returncode == FAILED
    assert "is of attempt 1, but attempt 2 has begun; it leaves" in said


def test_what_an_attempt_left_on_this_machine_is_killed_and_nothing_else(tmp_path):
    attempt, other = Attempt.begin(tmp_path), Attempt.begin(tmp_path)
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    left, stays = (subprocess.Popen(sleep, env=os.environ | one.environment) for one in (attempt, other))
    assert attempt.kill_processes() == 1
    assert left.wait() == -9 and stays.poll() is None
    stays.kill()
    stays.wait()
    assert VARIABLE not in os.environ


def test_heartbeats_of_many_ranks_are_in_folders_of_a_thousand(tmp_path):
    heartbeat = Heartbeat()
    heartbeat.enter(0, "train")
    for rank in (0, 999, 1000, 65535):
        heartbeat.write(tmp_path, rank)
    files = {
        f"{path.relative_to(tmp_path / 'heartbeat')}" for path in (tmp_path / "heartbeat").rglob("*.json")
    }
    assert files == {"rank_0000.json", "rank_0999.json", "0001/rank_1000.json", "0065/rank_65535.json"}
    beats = read_beats(tmp_path, 1001)
    assert [rank for rank, beat in enumerate(beats) if beat is not None] == [0, 999, 1000]
    assert seconds_since_beat(tmp_path) < 60
    clear(tmp_path)
    assert not any((tmp_path / "heartbeat").rglob("*.json"))


@pytest.mark.parametrize(("size", "n"), [(1, 1), (64, 64), (65, 33), (65536, 64)])
def test_so_many_ranks_watch_the_others_heartbeats(size, n):
    assert sum(is_watcher(rank, size) for rank in range(size)) == n


def test_65536_ranks_write_a_thousand_heartbeats_a_second():
    def pause(size, timeout_s):
        return Watchdog(Heartbeat(), Path(), 0, size, timeout_s, lambda: None)._pause_s

    assert pause(2, 500.0) == pytest.approx(500 / 60) and pause(2, 0) == 10
    assert pause(65536, 500.0) == pytest.approx(65.536)


def test_a_heartbeat_names_its_attempt(tmp_path):
    heartbeat = Heartbeat(3)
    heartbeat.enter(0, "train")
    heartbeat.write(tmp_path, 0)
    [beat] = read_beats(tmp_path, 1)
    assert beat.attempt == 3


TAKE = """
import sys
from pathlib import Path
from kakurenbo_hpc.rundir import lock
lock._LEASE_S = 0
lock.Lock(Path(sys.argv[1]), sys.argv[2]).take()
print("taken", flush=True)
sys.stdin.read()
"""


def other_process(run, part):
    return subprocess.Popen(
        [sys.executable, "-c", TAKE, str(run), part],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_launcher_and_ranks_share_the_lock_and_either_keeps_out_another_run(tmp_path, monkeypatch):
    monkeypatch.setattr("kakurenbo_hpc.rundir.lock._LEASE_S", 0)
    launcher = Lock(tmp_path, "launcher")
    launcher.take()
    launcher.sign()
    ranks = other_process(tmp_path, "ranks")
    assert ranks.stdout.readline().endswith("taken\n")
    second = other_process(tmp_path, "ranks").communicate()[1]
    assert "a run is under way here" in second, "an old rank 0 keeps the new one waiting"
    with launcher:
        for part in ("all", "launcher"):
            assert "a run is under way here" in other_process(tmp_path, part).communicate()[1]
    with pytest.raises(RunDirectoryError):  # the launcher is gone, its ranks are not
        Lock(tmp_path, "all").take()
    ranks.communicate()
    with Lock(tmp_path, "all") as free:
        free.take()
