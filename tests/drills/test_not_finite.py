"""Numbers that are not finite: samples are counted and trained around; steps are skipped and counted, and too
many end the run.
"""

import math
import threading

import pytest
import torch
from support.batch_runs import metrics
from support.runs import parameters, train_here

from kakurenbo_hpc.data.datasets.digits import Digits
from kakurenbo_hpc.errors import DONE, TrainingError
from kakurenbo_hpc.rundir.checkpoint import async_writer
from kakurenbo_hpc.rundir.checkpoint.retention import newest_valid
from kakurenbo_hpc.training.learner import Learner

pytestmark = pytest.mark.ranks(2)


def train(run, comm, *sets):
    return train_here(
        "digits_kakurenbo", ["training.epochs=4", "selection.fraction_epochs=[0]", *sets], run, comm
    )


def finite(run, epoch):
    return all(tensor.isfinite().all() for tensor in parameters(run, epoch).values())


@pytest.fixture
def spoil(monkeypatch):
    """Makes the last rank's gradient NaN in the steps (epoch, step) that a function names."""

    def spoil(named):
        step = Learner.step

        def spoilt(learner, batch):
            last = learner._world.rank == learner._world.size - 1
            factor = torch.nan if last and named(learner._epoch, batch.micro_batch.step) else 1
            hook = next(learner.model.parameters()).register_hook(lambda gradient: gradient * factor)
            try:
                return step(learner, batch)
            finally:
                hook.remove()

        monkeypatch.setattr(Learner, "step", spoilt)

    return spoil


def test_samples_whose_loss_is_nan_are_counted_and_training_goes_on(comm_of, tmp_path, monkeypatch):
    def opened(options, directory=None, open=Digits.open):
        data = open(options, directory)
        data.train._images[[3, 700, 1400], 0, 4, 4] = float("nan")
        return data

    monkeypatch.setattr(Digits, "open", opened)
    if one := comm_of(1):
        assert train(tmp_path / "run", one) == DONE
        lines = metrics(tmp_path / "run")
        assert [(line["n_nan"], line["n_skipped_steps"]) for line in lines] == [(3, 0)] * 4
        assert lines[-1]["val_accuracy"] > 0.5 and all(math.isfinite(line["train_loss"]) for line in lines)
        assert finite(tmp_path / "run", 3)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_whose_gradient_is_nan_on_one_rank_is_skipped_on_all_and_counted(
    precision, comm, tmp_path, spoil
):
    spoil(lambda *at: at in {(2, 2), (2, 3), (2, 7)})
    assert train(tmp_path / "run", comm, f"training.precision={precision}") == DONE
    comm.barrier()
    skipped = [line["n_skipped_steps"] for line in metrics(tmp_path / "run")]
    assert skipped == [0, 0, 3, 0] if precision == "fp32" else 3 <= skipped[2] < 10, (
        "a loss scale overflows now and then"
    )
    assert finite(tmp_path / "run", 3)


def test_too_many_of_them_in_a_row_end_the_run_and_the_checkpoint_before_is_good(
    comm, tmp_path, spoil, monkeypatch
):
    """The checkpoint before them is written only when the run has failed."""
    spoil(lambda epoch, step: epoch >= 2)
    ended, harmed = threading.Event(), Learner.step

    def step(learner, batch):
        try:
            return harmed(learner, batch)
        except TrainingError:
            ended.set()
            raise

    def late(*words, write=async_writer.write_shards):
        if words[0].name == ".epoch_0001.part":
            ended.wait(60)
        return write(*words)

    monkeypatch.setattr(Learner, "step", step)
    monkeypatch.setattr(async_writer, "write_shards", late)
    told = "^the gradient was not finite in 5 steps in a row, the last of them in epoch 3; checkpoints, if"
    with pytest.raises(TrainingError, match=told):
        train(tmp_path / "run", comm, "training.skipped_steps=5")
    comm.barrier()
    assert newest_valid(tmp_path / "run" / "checkpoints").name == "epoch_0001", (
        "it was still being written, and was waited for"
    )
    assert finite(tmp_path / "run", 1)
