"""The plugin that runs tests inside ranks, on small files of such tests: outcomes, messages, and how soon."""

import os
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
GRACE_S, LIMIT_S = 2, 3


@dataclass
class Told:
    """What the outer pytest said: its exit code, its output, and outcome, message and seconds by name."""

    code: int
    output: str
    outcome: dict[str, str]
    text: dict[str, str]
    seconds: dict[str, float]


def outer(folder, *words):
    """Run pytest in a folder with the plugin, as `scripts/test` would."""
    settings = f"[pytest]\nranks_grace_s = {GRACE_S}\njunit_duration_report = call\n"
    (folder / "pytest.ini").write_text(settings)
    line = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "support.rank_session",
        "--junitxml",
        "told.xml",
        "-rA",
        *words,
    ]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        line, cwd=folder, env=env | {"PYTHONPATH": str(TESTS)}, capture_output=True, text=True, timeout=300
    )
    told = Told(done.returncode, done.stdout + done.stderr, {}, {}, {})
    for case in ElementTree.parse(folder / "told.xml").iter("testcase"):
        name = case.get("name")
        trouble = [part for part in case if part.tag in ("failure", "error", "skipped")]
        told.outcome[name] = trouble[0].tag if trouble else "passed"
        told.text[name] = "".join(f"{part.get('message')}\n{part.text}" for part in trouble)
        told.seconds[name] = float(case.get("time"))
    return told


MIXED = """
    import os, signal, time
    import numpy as np
    import pytest

    @pytest.fixture(scope="module")
    def kept(module_comm, tmp_path_factory):
        folder = tmp_path_factory.mktemp("kept")
        if module_comm.rank == 0:
            (folder / "file").write_text("from rank 0")
        module_comm.barrier()
        yield folder
        (folder / f"torn_down_{module_comm.rank}").touch()

    @pytest.mark.ranks(2, 3)
    def test_sum(comm):
        assert comm.sum(np.array([comm.rank]))[0] == comm.size * (comm.size - 1) / 2

    @pytest.mark.parametrize("root", [0, 1])
    @pytest.mark.ranks(2)
    def test_broadcast(comm, root, tmp_path):
        (tmp_path / str(comm.rank)).touch()
        comm.barrier()
        assert comm.broadcast(comm.rank, root) == root and len(list(tmp_path.iterdir())) == 2

    @pytest.mark.ranks(2)
    def test_all_fail(comm):
        print("printed by rank", comm.rank)
        comm.barrier()
        assert comm.rank == comm.size, "on both"

    @pytest.mark.ranks(2)
    def test_same_session(comm, kept):
        assert (kept / "file").read_text() == "from rank 0"

    @pytest.mark.ranks(2)
    def test_one_fails(comm, kept):
        print("printed by rank", comm.rank)
        assert comm.rank == 0, "on one"
        comm.barrier()

    @pytest.mark.ranks(2)
    def test_fixture_is_made_again_in_a_new_session(kept):
        assert (kept / "file").exists() and not list(kept.glob("torn_down_*"))

    @pytest.mark.ranks(2)
    def test_exits(comm):
        print("printed by rank", comm.rank)
        if comm.rank == 0:
            os._exit(3)
        comm.barrier()

    @pytest.mark.ranks(2)
    def test_is_killed(comm):
        if comm.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        comm.barrier()

    @pytest.mark.ranks(2, limit_s=3)
    def test_hangs(comm):
        print("printed by rank", comm.rank)
        if comm.rank == 1:
            time.sleep(1000)
        comm.barrier()

    @pytest.mark.skip(reason="not today")
    @pytest.mark.ranks(2)
    def test_is_skipped(comm):
        raise AssertionError

    @pytest.mark.ranks(2)
    def test_is_skipped_on_one_rank(comm):
        if comm.rank == 1:
            pytest.skip("not here")

    @pytest.mark.xfail
    @pytest.mark.ranks(2)
    def test_is_expected_to_fail(comm):
        assert comm.rank == 5

    @pytest.fixture
    def broken(comm):
        assert comm.rank == 0, "fixture"

    @pytest.mark.ranks(2)
    def test_has_a_broken_fixture(broken):
        pass

    @pytest.mark.ranks(2)
    def test_last(comm):
        assert os.environ["OMP_NUM_THREADS"] == "1" and comm.gather(comm.rank) == [0, 1]

    def test_without_ranks(tmp_path):
        assert tmp_path.exists()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "test_mixed.py").write_text(textwrap.dedent(MIXED))
    return folder


@pytest.fixture(scope="module")
def mixed(folder):
    return outer(folder)


def test_every_test_has_an_outcome_of_its_own(mixed):
    failed = {"all_fail", "one_fails", "exits", "is_killed", "hangs", "is_skipped_on_one_rank"}
    assert mixed.code == 1
    assert mixed.outcome == {
        "test_without_ranks": "passed",
        "test_sum[2ranks]": "passed",
        "test_sum[3ranks]": "passed",
        "test_broadcast[0]": "passed",
        "test_broadcast[1]": "passed",
        "test_same_session": "passed",
        "test_fixture_is_made_again_in_a_new_session": "passed",
        "test_is_skipped": "skipped",
        "test_is_expected_to_fail": "skipped",
        "test_has_a_broken_fixture": "error",
        "test_last": "passed",
        **{f"test_{name}": "failure" for name in failed},
    }, mixed.output


def test_ranks_that_fail_alike_are_told_once_with_what_each_printed(mixed):
    text = mixed.text["test_all_fail"]
    assert "rank 0 of 2: AssertionError: on both" in text and "rank 1 of 2 -" in text
    assert "printed by rank 0" in mixed.output and "printed by rank 1" in mixed.output


def test_a_rank_that_fails_alone_does_not_wait_for_those_that_wait_for_it(mixed):
    text = mixed.text["test_one_fails"]
    assert text.startswith("rank 1 of 2: AssertionError: on one")
    assert "is not done 2 s after rank 1 failed; it is at" in text and "comm.barrier()" in text
    assert mixed.seconds["test_one_fails"] < GRACE_S + 5


def test_a_rank_that_ends_is_named_with_its_exit_code_or_signal(mixed):
    assert mixed.text["test_exits"].startswith("rank 0 of 2: ended with exit code 3")
    assert mixed.text["test_is_killed"].startswith("rank 1 of 2: was killed by SIGKILL")
    assert max(mixed.seconds[f"test_{name}"] for name in ("exits", "is_killed")) < 5


def test_ranks_that_hang_say_where(mixed):
    text = mixed.text["test_hangs"]
    assert "rank 0 of 2: is not done after 3 s, the limit; it is at" in text
    assert "time.sleep(1000)" in text and "comm.barrier()" in text
    assert LIMIT_S / 2 < mixed.seconds["test_hangs"] < LIMIT_S + 5


def test_what_a_test_printed_before_its_rank_ended_is_shown(mixed):
    for name in ("test_exits", "test_hangs"):
        shown = mixed.output.split(f"_ {name} _")[1].split("\n____")[0]
        assert "printed by rank 0" in shown and "printed by rank 1" in shown


def test_all_ranks_skip_or_none(mixed):
    assert "not today" in mixed.text["test_is_skipped"]
    text = mixed.text["test_is_skipped_on_one_rank"]
    assert text.startswith("rank 1 of 2: skipped here, but not on all ranks: Skipped: not here")


def test_a_fixture_that_fails_on_one_rank_is_an_error(mixed):
    assert "rank 1 of 2: AssertionError: fixture" in mixed.text["test_has_a_broken_fixture"]


@pytest.mark.nightly
def test_single_tests_and_those_that_failed_can_be_chosen(folder, mixed):
    name = "test_mixed.py::test_"
    told = outer(folder, "--lf", f"{name}all_fail", f"{name}sum[3ranks]")
    assert told.outcome == {"test_all_fail": "failure"}, told.output


def test_ranks_that_cannot_start_are_told_once(folder, tmp_path, monkeypatch):
    mpirun = tmp_path / "mpirun"
    mpirun.write_text("#!/bin/sh\necho no slots here\nexit 7\n")
    mpirun.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    told = outer(folder, "-k", "sum or last")
    assert set(told.outcome.values()) == {"error"} and len(told.outcome) == 3
    assert "mpirun ended with exit code 7\nno slots here" in told.text["test_sum[2ranks]"]
    assert "no 2 ranks: their start failed before" in told.text["test_last"]


@pytest.mark.nightly
def test_a_file_that_only_ranks_cannot_read_is_told(tmp_path):
    lines = ["import sys, pytest", 'assert "mpi4py.MPI" not in sys.modules']
    lines += ["@pytest.mark.ranks(2)", "def test(): pass"]
    (tmp_path / "test_some.py").write_text("\n".join(lines))
    told = outer(tmp_path)
    assert "did not find all of its 1 tests: test_some.py::test" in told.text["test"]
    assert "mpi4py.MPI" in told.text["test"]


@pytest.mark.nightly
def test_ranks_that_fail_at_their_very_end_fail_the_last_test(tmp_path):
    lines = ["import atexit, os, pytest", "@pytest.mark.ranks(2)"]
    lines += ["def test(comm): comm.rank and atexit.register(os._exit, 4)"]
    (tmp_path / "test_some.py").write_text("\n".join(lines))
    told = outer(tmp_path)
    assert told.outcome == {"test": "error"}
    assert "mpirun ended with exit code 4 after the last test" in told.text["test"]
