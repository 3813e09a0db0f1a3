"""InfoBatch on examples: ten samples, losses 0 to 9, mean 4.5."""

import numpy as np
import pytest
from support.method_examples import hidden, ledger, method, plan, refusal

from kakurenbo_hpc.selection.float_keys import round_up

LOSSES = list(range(10))


def infobatch(loss=LOSSES, unseen=(), epoch=1, total=100, seed=0, **options):
    m = method("infobatch", **options)
    return plan(m, ledger(m, loss, unseen), epoch, total, seed)


def test_samples_below_the_mean_are_hidden_at_random_and_the_survivors_of_that_side_weigh_more():
    decided = infobatch(prune_ratio=0.75)
    assert set(hidden(decided)) < {0, 1, 2, 3, 4}
    survivors = decided.train & (decided.weight != 1)
    assert set(np.flatnonzero(survivors)) | set(hidden(decided)) == {0, 1, 2, 3, 4}
    assert np.all(decided.weight[survivors] == 4) and np.all(decided.weight[5:] == 1)
    assert decided.n_candidates == 5


def test_every_epoch_and_seed_draws_anew():
    picks = {tuple(hidden(infobatch(epoch=e, seed=s))) for e in range(4) for s in range(4)}
    assert len(picks) > 8


def test_a_share_may_be_drawn_exactly():
    for epoch in range(20):
        assert len(hidden(infobatch(epoch=epoch, exact_share=True, prune_ratio=0.5))) == 2
        assert len(hidden(infobatch(epoch=epoch, exact_share=True, prune_ratio=0.9, prune="above"))) == 4


def test_the_other_side_can_be_pruned():
    decided = infobatch(prune="above", prune_ratio=0.5)
    assert set(hidden(decided)) <= {5, 6, 7, 8, 9} and np.all(decided.weight[:5] == 1)


def test_a_loss_that_equals_the_threshold_is_on_neither_side():
    for side in ("below", "above"):
        assert hidden(infobatch([3, 3, 3], prune=side, prune_ratio=0.9)) == []


BELOW_1, ABOVE_1 = (float(np.nextafter(np.float32(1), np.float32(end))) for end in (0, 2))


@pytest.mark.parametrize(
    ("losses", "n_below"),
    [
        ([BELOW_1, 1, 1], 1),  # the mean's nearest float32 is 1, above it
        ([BELOW_1, BELOW_1, 1], 2),
        ([1, 1, ABOVE_1], 2),  # the nearest is 1, below it
        ([1, ABOVE_1, ABOVE_1], 1),
    ],
)
def test_the_threshold_is_compared_without_rounding_it(losses, n_below):
    assert infobatch(losses, prune_ratio=0.9).n_candidates == n_below
    assert infobatch(losses, prune_ratio=0.9, prune="above").n_candidates == 3 - n_below


@pytest.mark.parametrize(
    "value", [0.1, 0.3, 1 + 2**-25, 1.0, -0.1, -0.3, 1e-46, -1e-46, 1e-40 / 3, 16777217.0]
)
def test_a_threshold_rounded_up_is_the_least_float32_that_is_not_below_it(value):
    got = round_up(value)
    assert got.dtype == np.float32 and float(got) >= value
    assert float(np.nextafter(got, np.float32(-np.inf))) < value


@pytest.mark.parametrize(("q", "n_below"), [(0.3, 3), (0.05, 0), (0.99, 9)])
def test_a_quantile_can_be_the_threshold(q, n_below):
    assert infobatch(threshold=f"quantile({q})").n_candidates == n_below


@pytest.mark.parametrize(("epoch", "prunes"), [(0, True), (6, True), (7, False), (9, False)])
def test_the_last_epochs_train_everything(epoch, prunes):
    decided = infobatch(epoch=epoch, total=8, anneal=0.875)
    assert (decided.weight is not None) == prunes and (prunes or hidden(decided) == [])


def test_an_anneal_of_one_prunes_to_the_end():
    assert infobatch(epoch=7, total=8, anneal=1.0).weight is not None


def test_epoch_0_prunes_nothing():
    decided = infobatch(unseen=range(10), epoch=0)
    assert hidden(decided) == [] and np.all(decided.weight == 1)


def test_nan_and_infinity_are_left_out_of_the_mean_and_lie_above_it():
    assert infobatch([0, 2, np.nan, np.inf]).n_candidates == 1
    assert infobatch([0, 2, np.nan, np.inf], prune="above").n_candidates == 3
    assert infobatch([0, 2, 9, 9], unseen=[2, 3], prune="above").n_candidates == 1


def test_nothing_is_pruned_where_no_loss_is_finite():
    assert infobatch([np.nan, np.inf], prune="above", prune_ratio=0.9).n_candidates == 0


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"prune_ratio": 50.0},
            "job.yaml: selection.prune_ratio is 50.0, but must be in [0, 1); write 0.5 for 50 percent",
        ),
        ({"anneal": 0.0}, "job.yaml: selection.anneal is 0.0, but must be greater than 0"),
        (
            {"threshold": "quantile(2)"},
            "but must be mean or quantile(q) with q in (0, 1), for example quantile(0.8)",
        ),
        ({"threshold": "median"}, "selection.threshold is 'median', but must be mean or quantile(q)"),
        ({"prune": "both"}, "selection.prune is 'both', but must be 'below' or 'above'"),
    ],
)
def test_a_wrong_option_is_one_line(options, line):
    assert line in refusal("infobatch", **options)
