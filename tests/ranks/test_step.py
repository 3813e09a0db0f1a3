"""The gradient is the mean of weight x loss over the global batch, however it is spread out."""

import pytest
from support.start_ranks import PROGRAMS, start

CASES = [
    (1, 50, 1, "fp32"),
    (2, 50, 1, "fp32"),
    (3, 50, 1, "fp32"),
    (3, 50, 3, "fp32"),  # 17, 17 and 16 entries, each in three accumulated batches
    (3, 2, 1, "fp32"),  # one rank has nothing but a filler
    (2, 50, 2, "fp16"),  # loss scaling
    (2, 50, 1, "bf16"),
]


@pytest.mark.parametrize(("ranks", "entries", "accumulate", "precision"), CASES)
def test_a_step_equals_the_serial_double_precision_step(ranks, entries, accumulate, precision):
    done = start(ranks, PROGRAMS / "one_step.py", entries, accumulate, precision, "ddp")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the same step" in done.stdout


@pytest.mark.parametrize("ranks", [1, 3])
def test_batchnorm_statistics_are_the_mean_of_all_ranks(ranks):
    done = start(ranks, PROGRAMS / "batchnorm.py")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "statistics are the mean" in done.stdout


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_masks_are_learned_and_measured_on_any_ranks_as_on_one(ranks):
    done = start(ranks, PROGRAMS / "one_step_of_masks.py", timeout=60)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the same step" in done.stdout
