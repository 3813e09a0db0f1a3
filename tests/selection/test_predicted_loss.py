"""Predicted losses: worked examples, and what becomes of samples that have none."""

import math

import numpy as np
import pytest
from support.method_examples import after, hidden, ledger, method, plan, refusal

from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.selection.predicted_loss import predict_losses

NONE = (math.nan, -1)


def predicted(looks, epoch):
    """What is predicted from these (loss, epoch) of one sample."""
    looks = [NONE] * (4 - len(looks)) + looks
    losses, epochs = (np.array([column]) for column in zip(*looks))
    return float(predict_losses(losses.astype(np.float32), epochs.astype(np.int32), epoch)[0])


@pytest.mark.parametrize(
    ("looks", "epoch", "loss"),
    [
        ([(4, 0), (1, 1), (4, 2), (1, 3)], 4, 1),  # log loss falls by (log 4) / 5 an epoch
        ([(4, 0), (2, 1), (2, 2), (4, 3)], 9, math.sqrt(8)),
        ([(8, 0), (4, 1), (2, 3)], 2, 2 ** (11 / 7)),  # log2 loss is (20 - 4.5 t) / 7
        ([(8, 0), (4, 1), (2, 2), (1, 3)], 4, 1),  # .5 lies below what was seen
        ([(1, 0), (2, 5)], 99, 2),
        ([(3, 7)], 9, 3),
        ([(0, 0), (0, 1)], 2, 0),
        ([], 5, math.nan),
    ],
)
def test_the_line_of_log_losses_is_followed_within_their_range(looks, epoch, loss):
    assert predicted(looks, epoch) == pytest.approx(loss, rel=1e-6, nan_ok=True)


def by_loss(losses_of_epochs, **options):
    """KAKURENBO, and its ledger after epochs of these losses; None for a sample that is not trained."""
    one = method("kakurenbo", loss="predicted", max_fraction=0.5, move_back=False, **options)
    rows = ledger(one, [np.inf] * len(losses_of_epochs[0]), unseen=range(len(losses_of_epochs[0])))
    for epoch, losses in enumerate(losses_of_epochs):
        ids = [i for i, loss in enumerate(losses) if loss is not None]
        rows = after(one, rows, epoch, ids, [losses[i] for i in ids])
    return one, rows


def test_the_hidden_are_those_that_are_expected_to_have_the_lowest_losses():
    one, rows = by_loss([[1, 4], [2, 3], [4, 2], [2, 2.1]])
    assert hidden(plan(one, rows, epoch=4)) == [1]  # though its last loss was higher
    assert hidden(plan(method("kakurenbo", max_fraction=0.5, move_back=False), rows, epoch=4)) == [0]


def test_only_the_last_four_losses_count_and_each_in_its_epoch():
    _, rows = by_loss([[9], [9], [None], [4], [2], [None], [1]])
    assert rows.extra["recent_loss"].tolist() == [[9, 4, 2, 1]]
    assert rows.extra["recent_epoch"].tolist() == [[1, 3, 4, 6]]


def test_a_loss_that_is_not_finite_is_not_predicted_and_leaves_no_trace():
    one, rows = by_loss([[2, 2, None], [1, np.nan, None]])
    losses = one.with_losses(Epoch(2, 9, 0), rows).loss
    assert losses[0] == 1 and np.isnan(losses[1]) and losses[2] == np.inf
    assert rows.extra["recent_epoch"][1].tolist() == [-1, -1, -1, 0]


def test_nothing_is_predicted_where_every_sample_is_passed_forward_anyway():
    assert "write scores: lagging" in refusal("iswr", loss="predicted")
