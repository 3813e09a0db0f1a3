"""Importance sampling with replacement on examples."""

import numpy as np
import pytest
from support.method_examples import hidden, ledger, method, plan, refusal

from kakurenbo_hpc.core.plan import Epoch


def iswr(loss, unseen=(), epoch=1, **options):
    m = method("iswr", **options)
    return plan(m, ledger(m, loss, unseen), epoch)


def test_as_many_are_drawn_as_there_are_and_those_of_no_loss_never():
    decided = iswr([0, 1, 0, 1])
    assert decided.train.sum() == 4 and decided.train[[0, 2]].tolist() == [0, 0]


def test_a_large_loss_is_drawn_often():
    assert iswr([1] * 99 + [9901]).train[99] > 90


def test_reweighting_divides_by_how_often_a_sample_is_expected():
    decided = iswr([1, 3, 4, 0], reweight=True)
    assert decided.weight.tolist() == [2, pytest.approx(2 / 3), 0.5, 0]  # expected 0.5, 1.5, 2 and 0 times
    assert iswr([1, 3, 4, 0]).weight is None


def test_unseen_nan_and_infinite_losses_have_the_largest_weight():
    decided = iswr([1, 4, np.nan, np.inf, 9], unseen=[4], reweight=True)
    assert len(set(decided.weight[1:].tolist())) == 1 and decided.weight[0] == 4 * decided.weight[1]


def test_where_all_losses_are_zero_all_are_drawn_alike():
    assert iswr([0, 0, 0], reweight=True).weight.tolist() == [1, 1, 1]
    assert iswr([-1, 0, -2], reweight=True).weight.tolist() == [1, 1, 1]


def test_full_scores_need_a_look_before_every_epoch_and_lagging_ones_an_epoch_of_all():
    full, lagging = method("iswr"), method("iswr", scores="lagging")
    assert all(
        full.needs_scoring_pass(Epoch(e, 3, 0)) and not lagging.needs_scoring_pass(Epoch(e, 3, 0))
        for e in range(3)
    )
    assert hidden(iswr([1] * 50, unseen=range(50), epoch=0, scores="lagging")) == []


def test_a_wrong_option_is_one_line():
    assert "selection.scores is 'fresh', but must be 'full' or 'lagging'" in refusal("iswr", scores="fresh")
