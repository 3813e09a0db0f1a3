"""A disk that takes no more: the run goes on with the checkpoint before, says so, and loses no line of its metrics."""

import json
import subprocess
from pathlib import Path

import pytest
from ranks import start

DISK_FULL = Path(__file__).parent / "programs" / "disk_full.py"


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 8 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root alone")
    yield folder
    subprocess.run(["umount", folder], check=True)


def outcome(run):
    lines = [json.loads(text)["epoch"] for text in (run / "metrics.jsonl").read_text().splitlines()]
    return lines, sorted(path.name for path in (run / "checkpoints").iterdir() if path.name != "best")


def warnings(ended):
    return [line for line in ended.stdout.splitlines() if line.startswith("warning: checkpoint")]


@pytest.mark.parametrize(("n", "how", "reason"), [(2, "quota", "rank 1: File too large"), (1, "full", "rank 0: No space left on device")])
def test_a_checkpoint_that_the_disk_refuses_is_left_out_and_the_run_goes_on(n, how, reason, tmp_path, request):
    folder = request.getfixturevalue("small_disk") if how == "full" else tmp_path
    ended = start(n, DISK_FULL, folder, how, 2)
    assert ended.returncode == 0, ended.stderr[-2000:]
    (warning,) = warnings(ended)
    assert "epoch_0002 could not be written" in warning and reason in warning and "the run goes on" in warning
    assert outcome(folder / "run") == ([0, 1, 2, 3, 4], ["epoch_0000", "epoch_0001", "epoch_0003", "epoch_0004"])


def test_a_run_whose_last_checkpoint_is_refused_is_not_done(tmp_path):
    ended = start(1, DISK_FULL, tmp_path, "quota", "last")
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "the last checkpoint could not be written; make room and add --resume" in ended.stderr
    assert len(warnings(ended)) == 1
    assert outcome(tmp_path / "run")[1] == ["epoch_0000", "epoch_0001", "epoch_0002", "epoch_0003"]
