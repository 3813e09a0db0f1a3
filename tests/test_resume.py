"""What a run takes up, and what it refuses to: checkpoints that are damaged, hostile, of another job or of a newer version."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
import yaml
from runs import metrics

from kakurenbo_hpc.data import DATA
from kakurenbo_hpc.errors import RunDirectoryError
from kakurenbo_hpc.job import read_job
from kakurenbo_hpc.shipped import find_job
from kakurenbo_hpc.record.checkpoint import load_facts
from kakurenbo_hpc.record.parts import checksum
from kakurenbo_hpc.run import run
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.world.comm import Serial
from kakurenbo_hpc.world.stop import Stop

TINY = [
    "training={epochs: 3, global_batch: 10, lr: 0.01}", "data={name: visual_atoms, classes: 2, instances: 20, validation: 5, pixels: 16}",
    "model.options={width: 2}", "selection={method: kakurenbo, fraction_epochs: [0]}", "record.ledger=false",
]  # fmt: skip


def job(*sets):
    return read_job(find_job("digits_kakurenbo"), [*TINY, *sets], DATA, METHODS)


def go(directory, *sets, resume=True, allow_changes=False):
    return run(job(*sets), directory, Serial(), resume, allow_changes=allow_changes)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run of three epochs."""
    directory = tmp_path_factory.mktemp("done") / "run"
    assert go(directory, resume=False) == 0
    return directory


@pytest.fixture
def begun(done, tmp_path):
    """The same, of whose checkpoints the last is not there."""
    shutil.copytree(done, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "epoch_0002")
    return tmp_path / "run"


def with_checksums(checkpoint):
    """Make the manifest fit the files, as somebody would who wants them to be taken."""
    facts = load_facts(checkpoint)
    facts["files"] = {name: checksum(checkpoint / name) for name in facts["files"]}
    (checkpoint / "manifest.json").write_text(json.dumps(facts))


class Hostile:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def test_a_resumed_run_goes_on_where_the_best_is_known(begun, done):
    assert go(begun) == 0
    assert metrics(begun) == metrics(done)
    scores = [line["val_accuracy"] for line in metrics(done)]
    assert (begun / "checkpoints" / "best").read_text().strip() in {f"epoch_{i:04d}" for i, score in enumerate(scores) if score == max(scores)}


def test_a_checkpoint_tells_job_data_and_provenance(done):
    facts = load_facts(done / "checkpoints" / "epoch_0002")
    assert facts["job"] == yaml.safe_load((done / "job.yaml").read_text())
    assert facts["provenance"]["libraries"]["torch"] and facts["data"] and facts["global_batch"] == 10


@pytest.mark.parametrize("name", ["learner.pt", "ledger_000000000000.npz"])
def test_nothing_in_a_checkpoint_is_unpickled(name, begun, tmp_path, capsys):
    checkpoint, target = begun / "checkpoints" / "epoch_0001", tmp_path / "taken over"
    if name == "learner.pt":
        torch.save({"model": Hostile(target)}, checkpoint / name)
    else:
        rows = np.array([Hostile(target)] * 40, object)
        np.savez(checkpoint / name, loss=rows, correct=rows, confidence=rows, seen_epoch=rows)
    with_checksums(checkpoint)
    with pytest.raises(RunDirectoryError, match="epoch_0001: cannot be taken up by this job") as refused:
        go(begun)
    assert refused.value.agreed and "\n" not in str(refused.value)
    assert not target.exists()


def test_a_bare_pickle_is_passed_over_with_what_is_damaged(begun, tmp_path, capsys):
    (begun / "checkpoints" / "epoch_0001" / "learner.pt").write_bytes(pickle.dumps(Hostile(tmp_path / "taken over")))
    assert go(begun) == 0
    told = capsys.readouterr().out
    assert "epoch_0001: learner.pt is damaged; passed over" in told
    assert not (tmp_path / "taken over").exists()


def test_a_newer_format_is_refused_not_passed_over(begun):
    checkpoint = begun / "checkpoints" / "epoch_0001"
    (checkpoint / "manifest.json").write_text(json.dumps(load_facts(checkpoint) | {"format": 99}))
    before = metrics(begun)
    with pytest.raises(RunDirectoryError, match="epoch_0001: of format 99, but this version reads up to 1; use the version that wrote it"):
        go(begun)
    assert metrics(begun) == before


def test_a_changed_job_is_refused_with_every_difference(begun):
    with pytest.raises(RunDirectoryError) as refused:
        go(begun, "training.lr=0.02", "training.epochs=4", "selection.max_fraction=0.2", "seed=9", "record.keep=3", "data.workers=1")
    for change in (
        "training.lr was 0.01, is 0.02", "training.epochs was 3, is 4", "selection.max_fraction was 0.3, is 0.2", "seed was 1, is 9",
        "record.keep was 2, is 3", "data.workers was 0, is 1", "--resume --allow-changes",
    ):  # fmt: skip
        assert change in str(refused.value)


def test_a_changed_job_is_taken_where_that_is_allowed_and_it_is_recorded(begun):
    assert go(begun, "training.epochs=4", "training.ema=0.9", allow_changes=True) == 0
    assert [line["epoch"] for line in metrics(begun)] == [0, 1, 2, 3]
    assert yaml.safe_load((begun / "job.yaml").read_text())["training"]["epochs"] == 4
    changes = [{"after": "epoch_0001", "changes": ["training.epochs was 3, is 4", "training.ema was 0.0, is 0.9"]}]
    assert json.loads((begun / "provenance.json").read_text())["changes"] == changes
    assert load_facts(begun / "checkpoints" / "epoch_0003")["changes"] == changes
    assert go(begun, "training.epochs=4", "training.ema=0.9") == 0, "it is this job now"


def test_a_changed_method_begins_with_what_the_ledger_knows(begun):
    assert go(begun, "selection={method: ucb}", allow_changes=True) == 0
    assert [line["epoch"] for line in metrics(begun)] == [0, 1, 2]


def test_a_change_that_the_weights_do_not_fit_is_refused_in_one_line(begun):
    before = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}
    with pytest.raises(RunDirectoryError, match="epoch_0001: cannot be taken up by this job"):
        go(begun, "model.options={width: 4}", allow_changes=True)
    assert {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()} == before


def test_a_changed_job_goes_on_from_the_end_of_an_epoch(begun, monkeypatch, capsys):
    asked = iter([False] * 2 + [True] * 9)
    monkeypatch.setattr(Stop, "agreed", lambda self: next(asked))
    monkeypatch.setattr(Stop, "why", "the test", raising=False)
    assert go(begun) == 75
    monkeypatch.undo()
    assert (begun / "checkpoints" / "epoch_0002_inside").is_dir()
    assert go(begun, "training.lr=0.02", allow_changes=True) == 0
    told = capsys.readouterr().out
    assert "epoch_0002_inside: inside an epoch of the job as it was; passed over" in told and "resuming after epoch_0001" in told


def test_a_checkpoint_of_another_job_in_this_runs_folder_is_refused(begun, tmp_path):
    assert go(tmp_path / "other", "seed=5", "training.epochs=4", resume=False) == 0
    shutil.copytree(tmp_path / "other" / "checkpoints" / "epoch_0003", begun / "checkpoints" / "epoch_0003")
    with pytest.raises(RunDirectoryError, match=r"epoch_0003: holds the run of another job \(seed was 5, is 1"):
        go(begun)


def test_an_average_of_the_weights_is_evaluated_and_taken_up_again(tmp_path):
    averaged = ("training.ema=0.5", "training.lr=0.2")
    assert go(tmp_path / "whole", *averaged, resume=False) == 0
    assert go(tmp_path / "plain", "training.lr=0.2", resume=False) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "epoch_0002")
    assert go(tmp_path / "again", *averaged) == 0
    assert metrics(tmp_path / "again") == metrics(tmp_path / "whole")
    first = [metrics(tmp_path / run)[0] for run in ("whole", "plain")]
    assert first[0]["train_loss"] == first[1]["train_loss"] and first[0]["val_loss"] != first[1]["val_loss"]
