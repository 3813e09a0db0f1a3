"""KAKURENBO on examples: ten samples, losses 0 to 9, all seen, correct and confident by default."""

import numpy as np
import pytest

from kakurenbo_hpc.core.ledger import Ledger
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.selection.global_stats import GlobalStats
from kakurenbo_hpc.selection.methods.kakurenbo import Kakurenbo

N = 10


def ledger(loss=range(N), wrong=(), unsure=(), unseen=()):
    def but(value, rows, other, dtype):
        column = np.full(N, value, dtype)
        column[list(rows)] = other
        return column

    return Ledger(
        n_total=N,
        start=0,
        loss=np.array(loss, np.float32),
        correct=but(True, wrong, False, bool),
        confidence=but(0.9, unsure, 0.69, np.float32),
        seen_epoch=but(0, unseen, -1, np.int32),
    )


def plan(rows=None, epoch=1, total=100, **options):
    rows = ledger() if rows is None else rows
    return Kakurenbo(method="kakurenbo", **options).plan(
        Epoch(epoch, total, seed=0), rows, GlobalStats(SerialComm())
    )


def hidden(plan):
    return np.flatnonzero(~plan.train).tolist()


def test_the_lowest_losses_are_hidden_and_refreshed():
    decided = plan(ledger(loss=[5, 0, 7, 1, 8, 2, 9, 3, 4, 6]), max_fraction=0.3)
    assert hidden(decided) == [1, 3, 5] and np.flatnonzero(decided.refresh).tolist() == [1, 3, 5]
    assert (decided.n_candidates, decided.n_moved_back, decided.max_fraction) == (3, 0, 0.3)


def test_ties_are_broken_by_id_so_that_the_quota_holds():
    assert hidden(plan(ledger(loss=np.zeros(N)), max_fraction=0.3)) == [0, 1, 2]


def test_a_fraction_of_zero_hides_nothing_even_where_all_losses_are_equal():
    assert hidden(plan(ledger(loss=np.zeros(N)), max_fraction=0.0)) == []


def test_the_wrong_and_the_unsure_move_back_and_nobody_takes_their_place():
    decided = plan(ledger(wrong=[0], unsure=[2]), max_fraction=0.4)
    assert hidden(decided) == [1, 3] and (decided.n_candidates, decided.n_moved_back) == (4, 2)


def test_a_confidence_that_equals_tau_is_sure_enough():
    rows = ledger()
    rows.confidence[:] = 0.7
    assert hidden(plan(rows, confidence=0.7)) == [0, 1, 2]


def test_the_first_epoch_hides_nothing_since_nothing_was_seen():
    rows = Ledger.unseen(N, 0, N)
    decided = plan(rows, epoch=0, drop_top=0.2)
    assert hidden(decided) == [] and decided.lr_scale == 1 and decided.n_candidates == 0


def test_who_was_never_seen_and_who_is_nan_stays():
    nan_first = [np.nan, *range(1, N)]
    assert hidden(plan(ledger(loss=nan_first, unseen=[1]), max_fraction=0.3)) == [2, 3, 4]


@pytest.mark.parametrize(
    ("epoch", "ceiling"),
    [(0, 0.4), (29, 0.4), (30, 0.32), (59, 0.32), (60, 0.24), (79, 0.24), (80, 0.16), (99, 0.16)],
)
def test_the_ceiling_falls_at_the_epochs_listed(epoch, ceiling):
    options = {"max_fraction": 0.4, "fraction_epochs": [0, 30, 60, 80]}
    assert plan(epoch=epoch, **options).max_fraction == pytest.approx(ceiling, abs=1e-15)
    assert plan(epoch=epoch, reduce_fraction=False, **options).max_fraction == 0.4


@pytest.mark.parametrize(
    ("total", "falls"), [(100, [30, 60, 80]), (200, [60, 120, 160]), (600, [180, 360, 480]), (12, [3, 7, 9])]
)
def test_without_epochs_the_ceiling_falls_after_three_six_and_eight_tenths_of_the_run(total, falls):
    ceilings = [plan(epoch=epoch, total=total, max_fraction=0.4).max_fraction for epoch in range(total)]
    assert [e for e in range(1, total) if ceilings[e] < ceilings[e - 1]] == falls
    assert sorted(set(ceilings), reverse=True) == pytest.approx([0.4, 0.32, 0.24, 0.16])


@pytest.mark.parametrize("factors", [[1.0], [1.0, 0.5]])
def test_the_last_of_fewer_factors_stays(factors):
    ceilings = [plan(epoch=e, max_fraction=0.4, fraction_decay=factors).max_fraction for e in (0, 29, 30, 99)]
    assert ceilings == pytest.approx([0.4, 0.4, 0.4 * factors[-1], 0.4 * factors[-1]])


# Table 5's versions v(HE)(MB)(RF)(LR), in an epoch where the ceiling is 0.4 x 0.5 and one candidate is wrong.
@pytest.mark.parametrize(
    ("version", "who", "lr_scale"),
    [
        ("1000", [0, 1, 2, 3], 1),
        ("1001", [0, 1, 2, 3], 10 / 6),
        ("1010", [0, 1], 1),
        ("1011", [0, 1], 10 / 8),
        ("1100", [0, 2, 3], 1),
        ("1101", [0, 2, 3], 10 / 7),
        ("1110", [0], 1),
        ("1111", [0], 10 / 9),
    ],
)
def test_each_component_of_table_5_can_be_switched(version, who, lr_scale):
    components = dict(
        zip(["move_back", "reduce_fraction", "scale_lr"], (digit == "1" for digit in version[1:]))
    )
    schedule = {"max_fraction": 0.4, "fraction_epochs": [0, 1], "fraction_decay": [1.0, 0.5]}
    decided = plan(ledger(wrong=[1]), epoch=1, **schedule, **components)
    assert hidden(decided) == who and decided.lr_scale == pytest.approx(lr_scale)


def test_the_rate_follows_what_was_hidden_or_the_ceiling_as_the_authors_code_did():
    rows = ledger(wrong=[0, 1])
    assert plan(rows, max_fraction=0.3, lr_fraction="actual").lr_scale == pytest.approx(1 / 0.9)
    assert plan(rows, max_fraction=0.3, lr_fraction="ceiling").lr_scale == pytest.approx(1 / 0.7)


def test_the_hidden_are_looked_at_every_so_many_epochs_and_never_after_the_last():
    looks = [plan(epoch=epoch, total=7, refresh_every=3).refresh is not None for epoch in range(7)]
    assert looks == [True, False, False, True, False, False, False]
    assert plan(epoch=6, total=7).refresh is None


def test_drop_top_leaves_out_the_highest_losses_seen_nan_first():
    loss = [0, 1, 2, 3, 4, 5, 6, 7, np.nan, np.inf]
    decided = plan(ledger(loss=loss, unseen=[9]), max_fraction=0.1, drop_top=0.2)
    assert hidden(decided) == [0, 7, 8] and np.flatnonzero(decided.refresh).tolist() == [0, 7, 8]
    assert decided.lr_scale == pytest.approx(1 / 0.7)


def test_how_the_hidden_are_looked_at_is_passed_on():
    decided = plan(refresh_mode="train", refresh_augment=False)
    assert (decided.refresh_mode, decided.refresh_augment) == ("train", False)
    assert (plan().refresh_mode, plan().refresh_augment) == ("eval", True)
