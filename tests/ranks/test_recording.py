"""What a run records where its job asks for it, on real ranks."""

import json
from itertools import chain, repeat

import h5py
import numpy as np
import pytest
from support.runs import ledger, lines, same_parameters, train_here

from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.preemption import Preemption
from kakurenbo_hpc.engine.gradient_probe import probe_gradients
from kakurenbo_hpc.errors import DONE, REQUEUE
from kakurenbo_hpc.rundir.energy import Energy
from kakurenbo_hpc.rundir.exits import add_exit
from kakurenbo_hpc.selection import METHODS

ALL = ["ledger=true", "test=true", "images=6", "rank_seconds=true", "tensorboard=true"]
SMALL = ["training.epochs=2", *(f"record.{each}" for each in ALL)]


@pytest.mark.ranks(2)
def test_a_run_records_what_its_job_asks_for(comm, tmp_path):
    pytest.importorskip("tensorboard")
    run = comm.broadcast(tmp_path) / "run"
    assert train_here("digits_everything", [*SMALL, "selection.method=infobatch"], run, comm) == 0
    if comm.rank:
        return
    columns = ledger(run, 1)
    assert {"label", "selection_probability"} <= columns.keys() and set(columns["label"]) == set(range(10))
    assert set(np.unique(columns["selection_probability"])) <= {0.5, 1.0}
    with h5py.File(run / "test" / "epoch_0001.h5") as file:
        assert np.array_equal(file["id"], np.arange(360))
        assert np.mean(file["correct"]) == pytest.approx(lines(run)[1]["val_accuracy"])
        assert np.all(file["probability"][:] <= file["confidence"][:] + 1e-6)
    with h5py.File(run / "rank_seconds.h5") as file:
        seconds, stages = file["seconds"][:], [name.decode() for name in file["stage"]]
        assert seconds.shape == (2, 2, len(stages)) and file["epoch"][:].tolist() == [0, 1]
        assert np.all(seconds[..., stages.index("data_wait")] > 0)
        exchange, backward = (seconds[..., stages.index(name)] for name in ("gradient_exchange", "backward"))
        assert np.all(exchange > 0) and np.all(exchange < backward)
    with h5py.File(run / "images.h5") as file:
        assert (
            file["image"].shape == (6, 8, 8, 3) and file["is_highest"][:].tolist() == [True] * 3 + [False] * 3
        )
        assert np.all(np.diff(file["loss"][:3]) <= 0) and file["loss"][2] > file["loss"][5]
    assert list((run / "tensorboard").glob("events.*"))
    assert lines(run)[1]["input_bytes"] == 4 * 66 * lines(run)[1]["n_forward"]


def test_energy_is_read_where_it_can_be_and_wraps(tmp_path):
    import torch

    domain = tmp_path / "intel-rapl:0"
    domain.mkdir()
    (domain / "energy_uj").write_text("900000000")
    (domain / "max_energy_range_uj").write_text("1000000000")
    energy = Energy(torch.device("cpu"), True, tmp_path)
    (domain / "energy_uj").write_text("100000000")
    assert energy.take() == {"gpu": 0.0, "cpu": 200.0}
    assert Energy(torch.device("cpu"), False, tmp_path).take() == {"gpu": 0.0, "cpu": 0.0}


def test_the_exit_history_is_a_line_each(tmp_path):
    add_exit(tmp_path, "stopped", where="after epoch 1", code=75)
    add_exit(tmp_path, "resumed", after="epoch_0000", passed_over=["epoch_0001"])
    add_exit(tmp_path / "missing", "stopped")  # a place that takes none loses it
    events = [json.loads(text) for text in (tmp_path / "exits.jsonl").read_text().splitlines()]
    assert [each["event"] for each in events] == ["stopped", "resumed"] and events[0]["code"] == 75


def test_tensorboard_has_no_epoch_twice_after_a_resume(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from kakurenbo_hpc.rundir.tensorboard import TensorBoard

    def line(epoch: int, loss: float) -> dict:
        histogram = {"edges": [0.5, 1.0, 2.0], "counts": [1, 2]}
        return {"epoch": epoch, "train_loss": loss, "seconds": {"total": 1.0}, "loss_histogram": histogram}

    for first, losses in ((0, [3.0, 2.0, 1.5]), (1, [2.5, 1.0])):
        board = TensorBoard(tmp_path, first)
        for epoch, loss in enumerate(losses, first):
            board.add(line(epoch, loss))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    points = [(point.step, point.value) for point in events.Scalars("train_loss")]
    assert points == [(0, 3.0), (1, 2.5), (2, 1.0)]


@pytest.mark.ranks(2)
def test_a_probe_of_gradients_is_the_same_on_any_number_of_ranks(comm, comm_of, tmp_path):
    """Of all samples; the whole share is the full gradient, and a high-loss share points more its way."""
    run = comm.broadcast(tmp_path) / "run"
    sets = ["training.epochs=2", "data.augmentation=[]", "selection.method=infobatch"]
    assert train_here("digits_everything", sets, run, comm) == 0
    job = read_job(find_job("digits_everything"), sets, DATASETS, METHODS)
    found = [probe_gradients(job, run, 10_000, comm)]
    if one := comm_of(1):
        found.append(probe_gradients(job, run, 10_000, one))
    for each in found:
        assert each["n"] == 1437 and each["shares"][-1] == 1
        assert each["high_loss"]["cosine"][-1] == pytest.approx(1) and each["random"]["signs"][-1] == 1
        assert each["high_loss"]["cosine"] == pytest.approx(found[0]["high_loss"]["cosine"], abs=1e-4)
        assert each["plan"]["weighted_cosine"] > 0.5


@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    ("method", "n_done"), [("infobatch", 5), ("selective_backprop", 8), ("sample_importance", 5)]
)
def test_evaluations_by_steps_change_nothing_and_none_is_there_twice(
    comm, tmp_path, monkeypatch, method, n_done
):
    folder = comm.broadcast(tmp_path)
    sets = [
        "data={name: visual_atoms, classes: 2, instances: 30, validation: 5, pixels: 16}",
        "training={epochs: 2, global_batch: 6, lr: 0.01}",
        "model.options={width: 2, norm: batch}",
        f"selection={{method: {method}}}",
    ]
    steps = [*sets, "record.evaluate_every=2"]
    for name, own in (("plain", sets), ("whole", steps)):
        assert train_here("digits_everything", own, folder / name, comm) == 0
    asked = chain(repeat(False, n_done), repeat(True))
    with monkeypatch.context() as patched:
        patched.setattr(Preemption, "should_stop", lambda stop: next(asked))
        patched.setattr(Preemption, "why", "the test", raising=False)
        assert train_here("digits_everything", steps, folder / "left", comm) == REQUEUE
    n_before = len(_evaluations(folder / "left"))
    assert train_here("digits_everything", steps, folder / "left", comm, resume=True) == 0
    if comm.rank:
        return
    assert same_parameters(folder / "plain", folder / "whole", 1)
    found = _evaluations(folder / "whole")
    assert _evaluations(folder / "left") == found and 0 < n_before < len(found)
    points = [(each["epoch"], each["step"]) for each in found]
    n_steps = [each["steps"] for each in lines(folder / "whole")]  # the last one's is the epoch's evaluation
    assert points == [(epoch, step) for epoch in (0, 1) for step in range(2, n_steps[epoch], 2)]


def _evaluations(run):
    return [json.loads(text) for text in (run / "evaluations.jsonl").read_text().splitlines()]


@pytest.mark.unit
def test_a_torn_line_of_evaluations_swallows_none_after_it(tmp_path):
    whole, every = '{"epoch": 0, "step": 2, "accuracy": 0.5}\n', ["record.evaluate_every=2"]
    first = [*every, "training.epochs=1", "training.warmup_epochs=0"]
    assert train_here("digits_everything", first, tmp_path / "run", SerialComm()) == DONE
    path = tmp_path / "run" / "evaluations.jsonl"
    path.write_text(whole + '{"epoch": 0, "st')
    sets = [*every, "training.epochs=2", "training.warmup_epochs=0"]
    done = train_here(
        "digits_everything", sets, tmp_path / "run", SerialComm(), resume=True, allow_changes=True
    )
    assert done == DONE
    found = [json.loads(text) for text in path.read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in found[:2]] == [(0, 2), (1, 2)]
