"""Resuming: checkpoints that are whole, damaged, hostile, of another job or of another format."""

import builtins
import io
import json
import pickle
import shutil
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.batch_runs import metrics

from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.core.torchvision_compat import timm, torchvision_models
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.preemption import Preemption
from kakurenbo_hpc.engine.run import run
from kakurenbo_hpc.errors import JobError, RunDirectoryError
from kakurenbo_hpc.rundir.checkpoint.manifest import load_facts, write_manifest
from kakurenbo_hpc.rundir.checkpoint.shards import checksum, load_learner
from kakurenbo_hpc.rundir.watchdog.heartbeat import Heartbeat
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.training.pretrained import export

TINY = [
    "training={epochs: 3, global_batch: 10, lr: 0.01}",
    "data={name: visual_atoms, classes: 2, instances: 20, validation: 5, pixels: 16}",
    "model.options={width: 2}",
    "selection={method: kakurenbo, fraction_epochs: [0]}",
    "record.ledger=false",
]


def job(*sets):
    return read_job(find_job("digits_kakurenbo"), [*TINY, *sets], DATASETS, METHODS)


def go(directory, *sets, resume=True, allow_changes=False):
    return run(job(*sets), directory, SerialComm(), resume, allow_changes=allow_changes)


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


def contents(folder):
    """Return every file of a run but its heartbeat, which tells of whoever came last."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "heartbeat"
    }


def with_checksums(checkpoint):
    """Make the manifest fit the files, as somebody would who wants them to be taken."""
    facts = load_facts(checkpoint)
    write_manifest(
        checkpoint, facts | {"files": {name: checksum(checkpoint / name) for name in facts["files"]}}
    )


class Hostile:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def test_a_resumed_run_goes_on_where_the_best_is_known(begun, done):
    assert go(begun) == 0
    assert metrics(begun) == metrics(done)
    scores = [line["val_accuracy"] for line in metrics(done)]
    assert (begun / "checkpoints" / "best").read_text().strip() in {
        f"epoch_{i:04d}" for i, score in enumerate(scores) if score == max(scores)
    }


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "at",
    [
        "rundir.lock.Lock.sign",
        "rundir.atomic_io.sync_folder",
        "rundir.atomic_io.os.replace",
        "rundir.run_dir.remove_partial",
    ],
)
def test_a_start_that_was_killed_early_can_be_made_again(at, tmp_path, monkeypatch):
    def killed(*words):
        raise Killed

    for resume in (False, True):
        with monkeypatch.context() as once, pytest.raises(Killed):
            once.setattr(f"kakurenbo_hpc.{at}", killed)
            go(tmp_path / str(resume), resume=False)
        assert go(tmp_path / str(resume), resume=resume) == 0


def test_a_checkpoint_that_is_written_is_no_hang(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(Heartbeat, "touch", lambda self: told.append(self.at))
    assert go(tmp_path / "run", resume=False) == 0
    assert len(told) >= 3 * 2, "the thread that writes tells, of every file"


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
    assert refused.value.on_all_ranks and "\n" not in str(refused.value)
    assert not target.exists()


def test_a_bare_pickle_is_damage_like_any_other(begun, tmp_path):
    (begun / "checkpoints" / "epoch_0001" / "learner.pt").write_bytes(
        pickle.dumps(Hostile(tmp_path / "taken over"))
    )
    with pytest.raises(RunDirectoryError, match="epoch_0001: learner.pt is damaged"):
        go(begun)
    assert not (tmp_path / "taken over").exists()


@pytest.mark.parametrize("other", [1, 2, 99])
def test_another_format_is_refused_not_passed_over(other, begun):
    checkpoint = begun / "checkpoints" / "epoch_0001"
    write_manifest(checkpoint, load_facts(checkpoint) | {"format": other})
    if other == 1:
        facts = load_facts(checkpoint)
        del facts["checksum"]
        (checkpoint / "manifest.json").write_text(json.dumps(facts))
    before = contents(begun)
    with pytest.raises(
        RunDirectoryError,
        match=f"epoch_0001: of format {other}, but this version reads format 3; use the version that",
    ):
        go(begun)
    assert contents(begun) == before


def test_where_no_checkpoint_is_whole_nothing_begins_anew(begun):
    shutil.copytree(begun / "checkpoints" / "epoch_0001", begun / "checkpoints" / "epoch_0000")
    (begun / "checkpoints" / "epoch_0001" / "learner.pt").unlink()
    (begun / "checkpoints" / "epoch_0000" / "manifest.json").write_text("torn")
    before = contents(begun)
    for resume in (True, False):
        with pytest.raises(RunDirectoryError) as refused:
            go(begun, resume=resume)
        assert str(refused.value) == (
            f"{begun / 'checkpoints'}: no checkpoint can be taken up (epoch_0001: learner.pt is missing, "
            "epoch_0000: manifest.json is "
            "damaged); put one right, or give another --run-dir"
        )
    assert contents(begun) == before


@pytest.mark.parametrize("name", ["manifest.json", "learner.pt"])
def test_a_file_that_cannot_be_read_now_is_not_taken_for_damaged(name, begun, monkeypatch):
    def hiccup(path, *words, real, **more):
        if str(path).endswith(f"epoch_0001/{name}"):
            raise OSError(116, "Stale file handle")
        return real(path, *words, **more)

    before = contents(begun / "checkpoints")
    for module, function in ((io, "open"), (builtins, "open")):
        monkeypatch.setattr(module, function, partial(hiccup, real=getattr(module, function)))
    with pytest.raises(
        RunDirectoryError,
        match=rf"epoch_0001/{name}: cannot be read \(Stale file handle\); try again when it can",
    ):
        go(begun)
    monkeypatch.undo()
    assert contents(begun / "checkpoints") == before
    assert go(begun) == 0


def test_a_changed_job_is_refused_with_every_difference(begun):
    with pytest.raises(RunDirectoryError) as refused:
        go(
            begun,
            "training.lr=0.02",
            "training.epochs=4",
            "selection.max_fraction=0.2",
            "seed=9",
            "record.keep=3",
            "data.workers=1",
        )
    for change in (
        "training.lr was 0.01, is 0.02",
        "training.epochs was 3, is 4",
        "selection.max_fraction was 0.3, is 0.2",
        "seed was 1, is 9",
        "record.keep was 2, is 3",
        "data.workers was 0, is 1",
        "--resume --allow-changes",
    ):
        assert change in str(refused.value)


def test_a_changed_job_is_taken_where_that_is_allowed_and_it_is_recorded(begun):
    assert go(begun, "training.epochs=4", "training.ema=0.9", allow_changes=True) == 0
    assert [line["epoch"] for line in metrics(begun)] == [0, 1, 2, 3]
    assert yaml.safe_load((begun / "job.yaml").read_text())["training"]["epochs"] == 4
    changes = [
        {"after": "epoch_0001", "changes": ["training.epochs was 3, is 4", "training.ema was 0.0, is 0.9"]}
    ]
    assert json.loads((begun / "provenance.json").read_text())["changes"] == changes
    assert load_facts(begun / "checkpoints" / "epoch_0003")["changes"] == changes
    assert go(begun, "training.epochs=4", "training.ema=0.9") == 0, "it is this job now"


def test_a_changed_method_begins_with_what_the_ledger_knows(begun):
    assert go(begun, "selection={method: ucb}", allow_changes=True) == 0
    assert [line["epoch"] for line in metrics(begun)] == [0, 1, 2]


def test_a_change_that_the_weights_do_not_fit_is_refused_in_one_line(begun):
    before = contents(begun)
    with pytest.raises(RunDirectoryError, match="epoch_0001: cannot be taken up by this job"):
        go(begun, "model.options={width: 4}", allow_changes=True)
    assert contents(begun) == before


def test_a_changed_job_goes_on_from_the_end_of_an_epoch(begun, monkeypatch, capsys):
    inside = left_inside(begun, monkeypatch, False, False)
    left = contents(inside)
    assert go(begun, "training.lr=0.02", allow_changes=True) == 0
    told = capsys.readouterr().out
    assert list(contents(inside.with_name(f"passed_over_1_{inside.name}")).values()) == list(left.values())
    assert (
        f"{inside.name}: inside an epoch of the job as it was; passed over" in told
        and "resuming after epoch_0001" in told
    )


def left_inside(directory, monkeypatch, *calls):
    """Leave a run where the answers to these questions whether to leave end; return its checkpoint."""
    asked = iter([*calls, *[True] * 9])
    with monkeypatch.context() as patched:
        patched.setattr(Preemption, "should_stop", lambda self: next(asked))
        patched.setattr(Preemption, "why", "the test", raising=False)
        assert go(directory, resume=directory.exists()) == 75
    [inside] = (directory / "checkpoints").glob("epoch_*_inside_*")
    return inside


def test_a_changed_job_of_a_run_that_was_left_in_its_first_epoch_begins_anew(tmp_path, monkeypatch, capsys):
    inside = left_inside(tmp_path / "run", monkeypatch, False)
    assert go(tmp_path / "run", "training.lr=0.02", allow_changes=True) == 0
    told = capsys.readouterr().out
    assert (
        f"{inside.name}: inside an epoch of the job as it was; passed over" in told
        and "beginning at epoch 0" in told
    )
    assert inside.with_name(f"passed_over_1_{inside.name}").is_dir()


def test_what_is_recorded_may_change_inside_an_epoch(begun, monkeypatch, capsys):
    inside = left_inside(begun, monkeypatch, False)
    assert go(begun, "record.keep=4", allow_changes=True) == 0
    assert f"resuming after {inside.name}" in capsys.readouterr().out


def test_a_disk_that_refuses_what_stands_beside_a_run_is_one_line(begun):
    (begun / "provenance.json").unlink()
    (begun / "provenance.json").mkdir()
    with pytest.raises(
        RunDirectoryError, match=r"cannot be written to \(Is a directory\); give another --run-dir"
    ):
        go(begun)


def test_a_checkpoint_of_another_job_in_this_runs_folder_is_refused(begun, tmp_path):
    assert go(tmp_path / "other", "seed=5", "training.epochs=4", resume=False) == 0
    shutil.copytree(tmp_path / "other" / "checkpoints" / "epoch_0003", begun / "checkpoints" / "epoch_0003")
    with pytest.raises(
        RunDirectoryError, match=r"epoch_0003: holds the run of another job \(seed was 5, is 1"
    ):
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


def test_accumulation_of_the_same_global_batch_may_change(begun, capsys):
    sets = ["training={epochs: 3, global_batch: 10, lr: 0.01, accumulate: 3}"]
    assert go(begun, *sets) == 0
    assert "global batch 10, 3 or 4 at once on a rank" in capsys.readouterr().out
    assert [line["steps"] for line in metrics(begun)][:1] == [4] and len(metrics(begun)) == 3
    with pytest.raises(RunDirectoryError, match="training.global_batch was 10, is None"):
        go(begun, "training={epochs: 3, batch_per_rank: 10, lr: 0.01}")


def test_iterations_become_whole_epochs(tmp_path, capsys):
    """10 steps of 10 of 40 samples."""
    sets = ["training={iterations: 10, global_batch: 10, lr: 0.01}"]
    assert go(tmp_path / "run", *sets, resume=False) == 0
    assert [line["steps"] for line in metrics(tmp_path / "run")][:1] == [4]
    assert len(metrics(tmp_path / "run")) == 3
    assert json.loads((tmp_path / "run/provenance.json").read_text())["epochs"] == 3
    assert go(tmp_path / "run", *sets) == 0 and len(metrics(tmp_path / "run")) == 3
    assert "resuming after epoch_0002" in capsys.readouterr().out


PLAIN = {
    "timm/test_resnet": lambda file: timm().create_model("test_resnet", num_classes=2, checkpoint_path=file),
    "torchvision/shufflenet_v2_x0_5": lambda file: torchvision_models().get_model(
        "shufflenet_v2_x0_5", num_classes=2
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_network_is_exported_for_its_library_and_another_run_begins_with_it(name, tmp_path, capfd):
    first, second, file = tmp_path / "first", tmp_path / "second", tmp_path / "new" / "model.safetensors"
    begin = (f"model={{name: {name}}}", "data.channels=3", "training.ema=0.5", "training.epochs=1")
    assert go(first, *begin, resume=False) == 0
    for average in (False, True):
        assert export(first, file, average) == 1
        weights = load_file(file)
        state = load_learner(first / "checkpoints" / "epoch_0000", torch.device("cpu"))
        averaged = {name.removeprefix("module."): tensor for name, tensor in state["ema"].items()}
        conv = next(key for key in weights if key.endswith("conv1.weight") or key == "conv1.0.weight")
        assert torch.equal(weights[conv], averaged[conv] if average else state["model"][conv])
        assert not torch.equal(averaged[conv], state["model"][conv])
    plain = PLAIN[name](file)
    plain.load_state_dict(weights)
    assert torch.equal(plain.state_dict()[conv], weights[conv])

    model = f"model={{name: {name}, weights_from: {file}}}"
    tuned = (model, "training.lr=1e-9", "data.channels=3", "data.classes=3")
    assert go(second, *tuned, resume=False) == 0
    assert "model.safetensors, all but fc" in capfd.readouterr().out
    begun = load_learner(second / "checkpoints" / "epoch_0001", torch.device("cpu"))["model"]
    torch.testing.assert_close(begun[conv], weights[conv])
    file.unlink()
    shutil.rmtree(second / "checkpoints" / "epoch_0002")
    assert go(second, *tuned) == 0, "a run that is resumed has its weights"
    with pytest.raises(JobError, match="model.safetensors: not found; model.weights_from must name"):
        go(tmp_path / "third", *tuned, resume=False)
