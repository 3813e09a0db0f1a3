"""random_static and rs2 on examples: ten samples."""

import numpy as np
import pytest
from support.method_examples import hidden, ledger, method, plan, refusal


def decided(name, epoch, seed=0, **options):
    m = method(name, **options)
    return plan(m, ledger(m, [1] * 10), epoch, seed=seed)


def test_random_static_hides_the_same_samples_in_every_epoch_of_a_run():
    whom = {seed: {tuple(hidden(decided("random_static", e, seed))) for e in range(5)} for seed in range(8)}
    assert all(len(w) == 1 and len(next(iter(w))) == 3 for w in whom.values())
    assert len(set.union(*whom.values())) > 1


def test_rs2_walks_through_a_permutation_in_consecutive_shares():
    epochs = [decided("rs2", e, fraction=0.8).train for e in range(15)]
    assert all(times.sum() == 2 for times in epochs)
    for first in (0, 5, 10):
        assert np.sum(epochs[first : first + 5], axis=0).tolist() == [1] * 10
    passes = [np.sum(epochs[first : first + 1], axis=0).tolist() for first in (0, 5, 10)]
    assert passes[0] != passes[1] or passes[1] != passes[2]


def test_an_epoch_that_crosses_the_end_of_a_permutation_goes_on_in_the_next():
    epochs = [decided("rs2", e, fraction=0.3).train for e in range(10)]
    assert [times.sum() for times in epochs] == [7] * 10
    assert np.sum(epochs, axis=0).tolist() == [7] * 10


def test_rs2_needs_no_memory():
    assert decided("rs2", 57).train.tolist() == decided("rs2", 57).train.tolist()


@pytest.mark.parametrize("name", ["random_static", "rs2"])
def test_the_learning_rate_may_be_scaled(name):
    assert decided(name, 0).lr_scale == 1
    assert decided(name, 0, scale_lr=True).lr_scale == pytest.approx(1 / 0.7)


def test_a_wrong_option_is_one_line():
    line = "job.yaml: selection.fraction is 30.0, but must be in [0, 1); write 0.3 for 30 percent"
    assert refusal("rs2", fraction=30.0) == refusal("random_static", fraction=30.0) == line
