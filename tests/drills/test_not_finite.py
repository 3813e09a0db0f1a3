"""Numbers that are not finite: samples are counted and trained around; steps are skipped and counted, and too
many end the run.
"""

import math
from pathlib import Path

import pytest
import torch
from support.batch_runs import metrics
from support.start_ranks import start

from kakurenbo_hpc.rundir.checkpoint.retention import newest_valid

PROGRAM = Path(__file__).parent / "programs" / "not_finite.py"


def run(folder, harm, *words, n=1):
    job = [
        "--run-dir",
        folder / "run",
        "--set",
        "training.epochs=4",
        "--set",
        "selection.fraction_epochs=[0]",
    ]
    return start(n, PROGRAM, harm, *job, *words, timeout=400)


def weights(folder, epoch):
    learner = torch.load(
        folder / "run" / "checkpoints" / f"epoch_{epoch:04d}" / "learner.pt", weights_only=True
    )
    return learner["model"].values()


def test_samples_whose_loss_is_nan_are_counted_and_training_goes_on(tmp_path):
    done = run(tmp_path, "samples")
    assert done.returncode == 0, done.stderr[-3000:]
    lines = metrics(tmp_path / "run")
    assert [line["n_nan"] for line in lines] == [3] * 4 and [line["n_skipped_steps"] for line in lines] == [
        0
    ] * 4
    assert lines[-1]["val_accuracy"] > 0.5 and all(math.isfinite(line["train_loss"]) for line in lines)
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path, 3))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_whose_gradient_is_nan_on_one_rank_is_skipped_on_all_and_counted(precision, tmp_path):
    done = run(tmp_path, "some steps", "--set", f"training.precision={precision}", n=2)
    assert done.returncode == 0, done.stderr[-3000:]
    skipped = [line["n_skipped_steps"] for line in metrics(tmp_path / "run")]
    assert skipped == [0, 0, 3, 0] if precision == "fp32" else 3 <= skipped[2] < 10, (
        "a loss scale overflows now and then"
    )
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path, 3))


def test_too_many_of_them_in_a_row_end_the_run_and_the_checkpoint_before_is_good(tmp_path):
    done = run(tmp_path, "all steps", "--set", "training.skipped_steps=5", n=2)
    assert done.returncode == 1
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("kakurenbo: ")]
    assert told.startswith(
        "kakurenbo: the gradient was not finite in 5 steps in a row, the last of them in epoch 3; "
        "checkpoints, if"
    )
    assert newest_valid(tmp_path / "run" / "checkpoints").name == "epoch_0001", (
        "it was still being written, and was waited for"
    )
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path, 1))
