"""Checkpoints that are not what they were: each is named and passed over, and the run goes on from the one
before, bit for bit.
"""

import shutil

import pytest
from support.kills import left
from support.runs import train_here

from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.errors import DONE
from kakurenbo_hpc.rundir.checkpoint.retention import newest_valid

pytestmark = pytest.mark.unit
JOB = ("digits_kakurenbo", ["training.epochs=4", "selection.fraction_epochs=[0]", "record.keep=4"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    assert train_here(*JOB, run, SerialComm()) == DONE
    return run


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1])


def bit_flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def emptied(path):
    path.write_bytes(b"")


DAMAGES = [truncated, bit_flipped, emptied, lambda path: path.unlink()]


@pytest.mark.parametrize("damage", DAMAGES, ids=["truncated", "bit_flipped", "emptied", "missing"])
def test_whatever_file_is_damaged_the_checkpoint_before_is_found_and_this_one_named(damage, run, capsys):
    newest = run / "checkpoints" / "epoch_0003"
    for path in sorted(newest.iterdir()):
        kept = path.read_bytes()
        damage(path)
        assert newest_valid(newest.parent) == newest.with_name("epoch_0002"), path.name
        told = capsys.readouterr().out
        assert told.startswith(f"{newest}: {path.name} is ") and told.endswith("; passed over\n"), told
        path.write_bytes(kept)
    assert newest_valid(newest.parent) == newest


def test_a_run_goes_on_from_the_newest_that_is_whole(run, whole, capsys):
    bit_flipped(run / "checkpoints" / "epoch_0003" / "learner.pt")
    shutil.rmtree(run / "checkpoints" / "epoch_0002")
    damaged = {path.name: path.read_bytes() for path in (run / "checkpoints" / "epoch_0003").iterdir()}
    assert train_here(*JOB, run, SerialComm(), resume=True) == DONE
    told = capsys.readouterr().out
    assert "epoch_0003: learner.pt is damaged; passed over" in told and "resuming after epoch_0001" in told
    assert (left(run)["lines"], left(run)["files"]) == (left(whole)["lines"], left(whole)["files"])
    assert {
        path.name: path.read_bytes() for path in (run / "checkpoints" / "passed_over_1_epoch_0003").iterdir()
    } == damaged
