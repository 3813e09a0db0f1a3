"""The epoch-level variant of Selective-Backprop on examples."""

import numpy as np
import pytest
from support.method_examples import hidden, ledger, method, plan, refusal


def trained(loss, n_epochs=400, unseen=(), **options):
    """The share of epochs in which each sample is trained."""
    m = method("selective_backprop_epoch", **options)
    rows = ledger(m, loss, unseen)
    return np.mean([plan(m, rows, e, n_epochs).train for e in range(n_epochs)], axis=0)


def test_a_sample_is_trained_with_its_percentile_to_the_beta():
    assert trained([4, 1, 3, 2], beta=2.0) == pytest.approx([1, 1 / 16, 9 / 16, 1 / 4], abs=0.1)


def test_equal_losses_share_the_higher_percentile():
    assert trained([0, 0, 0, 7], beta=1.0) == pytest.approx([0.75, 0.75, 0.75, 1], abs=0.1)


@pytest.mark.parametrize(("selectivity", "beta"), [(0.5, 1), (0.25, 3), (1.0, 0), (None, 1 / 0.33 - 1)])
def test_the_selectivity_is_the_share_that_is_trained(selectivity, beta):
    m = method("selective_backprop_epoch", selectivity=selectivity)
    assert m.exponent == pytest.approx(beta)
    assert trained(range(200), 40, selectivity=selectivity).mean() == pytest.approx(
        selectivity or 0.33, abs=0.03
    )


def test_the_highest_loss_and_whoever_has_none_are_always_trained():
    share = trained([1, 2, np.nan, np.inf, 5], unseen=[4], beta=5.0)
    assert share[1:].tolist() == [1, 1, 1, 1] and share[0] < 0.1


def test_nothing_is_hidden_before_anything_was_seen():
    m = method("selective_backprop_epoch")
    assert hidden(plan(m, ledger(m, [1] * 50, unseen=range(50)), 0)) == []


def test_a_wrong_option_is_one_line():
    assert "selectivity and beta are both given" in refusal(
        "selective_backprop_epoch", selectivity=0.5, beta=1.0
    )
    assert "selection.selectivity is 0.0, but must be greater than 0" in refusal(
        "selective_backprop_epoch", selectivity=0.0
    )
    assert "selection.beta is -1.0, but must be greater than or equal to 0" in refusal(
        "selective_backprop_epoch", beta=-1.0
    )
