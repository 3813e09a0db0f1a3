"""When ranks are started again, and when not; how lost ranks are found."""

import json
import sys
import time
from pathlib import Path

import pytest

from kakurenbo_hpc.cluster import restarts
from kakurenbo_hpc.cluster.allocation import Allocation
from kakurenbo_hpc.cluster.failure_report import FailureReport
from kakurenbo_hpc.cluster.launchers.launcher import CommandLine, Layout
from kakurenbo_hpc.cluster.restarts import LostRanks, RestartCount, run_attempts
from kakurenbo_hpc.errors import DONE, FAILED, REQUEUE, TERMINATED, USER_ERROR
from kakurenbo_hpc.rundir.attempt import Attempt
from kakurenbo_hpc.rundir.checkpoint.names import Position
from kakurenbo_hpc.rundir.watchdog.heartbeat import Heartbeat

TWICE = "they ended twice without a newer checkpoint between"


@pytest.mark.parametrize(
    ("most", "ends", "refusals"),
    [
        (3, [(0, 0), (0, 0)], ["", TWICE]),
        (3, [(2, 0), (2, 7), (2, 7)], ["", "", TWICE]),
        (3, [(2, 0), (1, 0)], ["", TWICE]),  # the newest was damaged
        (1, [(0, 1), (0, 2)], ["", "--restarts is 1, and no epoch has ended since the first of these"]),
        (1, [(0, 1), (1, 0), (2, 0), (2, 5)], ["", "", "", "--restarts is 1"]),
    ],
)
def test_progress_resets_the_count_and_no_progress_ends_the_run(most, ends, refusals):
    count = RestartCount(most)
    for end, refusal in zip(ends, refusals, strict=True):
        said = count.refuse(Position(*end))
        assert said.startswith(refusal) and bool(said) == bool(refusal)


def test_an_epoch_that_was_begun_anew_is_progress_where_the_attempt_wrote_in_it():
    for is_own, refusal in ((True, ""), (False, TWICE)):
        count = RestartCount(3)
        assert not count.refuse(Position(5, 900))
        assert count.refuse(Position(5, 300), is_own).startswith(refusal)
        assert bool(refusal) is not is_own


SRUN = "srun: error: n1: task 1: {}\n"


@pytest.mark.parametrize(
    ("heard", "is_final"),
    [
        ("", False),
        ("kakurenbo: rank 1 of 2 on a: OSError: the disk is on fire\n", False),
        ("kakurenbo: rank 1 of 2 on a: no rank has come further for 500 s\n", False),
        ("kakurenbo: rank 1 of 2 on a: RuntimeError: NCCL error: remote process exited\n", False),
        (SRUN.format("Killed"), False),
        ("kakurenbo: epoch 3: ten steps in a row had a gradient that is not finite\n", True),
        ("kakurenbo: rank 1 of 2 on a: DataError: train/x.h5: is missing\n", True),
        ("kakurenbo: rank 1 of 2 on a: MemoryError: no reason given\n", True),
        ("kakurenbo: rank 1 of 2 on a: OutOfMemoryError: CUDA out of memory. Tried to\n", True),
        ("kakurenbo: rank 1 of 2 on a: RuntimeError: CUDA error: out of memory\n", True),
        (SRUN.format("Out Of Memory"), True),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=12.0.\n" + SRUN.format("Killed"), True),
    ],
)
def test_an_error_that_all_agreed_on_and_a_lack_of_memory_are_final(heard, is_final):
    report = FailureReport()
    for line in heard.encode().splitlines(keepends=True):
        report.add(line)
    assert report.is_final == is_final


CRASH = "import os; os.kill(os.getpid(), 9)"


def run_programs(run, programs, most=2, resume=False):
    """Run a launch whose attempts are these programs; return its exit code, and which attempts resumed."""
    coming, resumed = iter(programs), []

    def start(attempt: Attempt, layout: Layout, resumes: bool) -> CommandLine:
        resumed.append(resumes)
        return CommandLine([sys.executable, "-c", next(coming), str(run)], attempt.environment)

    choose = lambda nth: (Allocation(), Layout(1, attempt=nth))
    return run_attempts(start, choose, run, most, resume), resumed


def test_a_crash_starts_the_ranks_again_and_the_log_says_why(tmp_path, capfd):
    run = tmp_path / "run"
    checkpoint = f"from pathlib import Path; Path({str(run)!r}, 'checkpoints/epoch_0000').mkdir(parents=True)"
    assert run_programs(run, [f"{checkpoint}; {CRASH}", CRASH, "pass"])[0] == FAILED, "no progress"
    assert capfd.readouterr().err.endswith(f"; not started again: {TWICE}\n")
    assert run_programs(run, [CRASH, "pass"]) == (DONE, [False, True])
    said = capfd.readouterr().out
    assert "== restart 1 of 2, attempt 3 ended: " in said and "; from epoch_0000\n" in said
    exits = [json.loads(line) for line in (run / "exits.jsonl").read_text().splitlines()]
    ends = [one for one in exits if one["event"] == "ended"]
    assert [(end["attempt"], end["code"], end["restarts"]) for end in ends] == [
        *((1, 1, True), (2, 1, False), (3, 1, True), (4, 0, False))
    ]


@pytest.mark.parametrize("code", [DONE, USER_ERROR, REQUEUE, TERMINATED])
def test_codes_that_mean_something_end_the_launch(code, tmp_path):
    assert run_programs(tmp_path, [f"import sys; sys.exit({code})"]) == (code, [False])


def test_a_refusal_on_fewer_ranks_than_usual_waits_for_other_nodes(tmp_path, capfd):
    start = lambda attempt, layout, resume: CommandLine([sys.executable, "-c", "import sys; sys.exit(2)"])
    choose = lambda nth: (Allocation(n_missing=2), Layout(6))
    assert run_attempts(start, choose, tmp_path, 2, False) == REQUEUE
    assert "; 2 ranks were missing: " in capfd.readouterr().err


@pytest.mark.parametrize("said", ["the loss is not finite", "rank 0 of 1 on a: DataError: x"])
def test_an_error_of_the_training_or_the_data_ends_the_launch(said, tmp_path):
    program = f"import sys; sys.stderr.write('kakurenbo: {said}\\n'); sys.exit(1)"
    assert run_programs(tmp_path, [program]) == (FAILED, [False])


def test_a_signal_to_the_launcher_ends_it(tmp_path, capfd):
    program = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(30)"
    assert run_programs(tmp_path, [program]) == (TERMINATED, [False])


def test_ranks_without_a_heartbeat_are_lost(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(restarts.time, "monotonic", lambda: now[0])
    hosts = {0: "a", 1: "a", 2: "b", 3: "b"}
    beats = {rank: Heartbeat(1) for rank in hosts}
    attempt = Attempt(tmp_path, "1-x")
    lost = LostRanks(attempt, 4)

    def pass_time(seconds, ranks, of=beats):
        for _ in range(seconds // 20):
            now[0] += 20
            for rank in ranks:
                monkeypatch.setattr("socket.gethostname", lambda rank=rank: hosts[rank])
                of[rank].enter(0, "train")
                of[rank].write(tmp_path, rank)
            if said := lost.find():
                return said
        return ""

    assert pass_time(300, [0, 1, 2, 3]) == "" and not lost.hosts
    assert pass_time(300, [0, 1, 2]) == "rank 3 on b: no heartbeat for 120 s" and not lost.hosts
    lost = LostRanks(attempt, 4)
    pass_time(40, [0, 1, 2, 3])
    assert pass_time(300, [0, 1]) == "ranks 2, 3 on b: no heartbeat for 120 s" and lost.hosts == {"b"}
    lost = LostRanks(attempt, 4)
    pass_time(40, [0, 1, 2, 3])
    now[0] += 1000  # a launcher that was asleep has seen nothing
    assert lost.find() == "" and pass_time(100, []) == ""
    lost = LostRanks(Attempt(tmp_path, "2-x"), 4)
    assert pass_time(300, []) == "", "heartbeats of an older attempt"


def test_a_launcher_ends_an_attempt_with_lost_ranks(tmp_path, monkeypatch):
    monkeypatch.setattr("kakurenbo_hpc.cluster.run_ranks._LOOK_S", 0.1)
    monkeypatch.setattr(LostRanks, "find", lambda lost: "rank 1 on b: no heartbeat for 120 s")
    begun = time.monotonic()
    assert run_programs(tmp_path, ["import time; time.sleep(60)"] * 2, most=1)[0] == FAILED
    assert time.monotonic() - begun < 30
    assert "rank 1 on b" in Path(tmp_path, "exits.jsonl").read_text()
