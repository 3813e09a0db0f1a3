"""OrderDP, SeTa, IES and RCAP: worked examples, and what each promises beside the laws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.ledgers import on_ranks, part, splits
from support.method_examples import after, hidden, ledger, method, plan

from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.core.rng import Stream
from kakurenbo_hpc.selection.class_selection import allocate, first_of_class
from kakurenbo_hpc.selection.kmeans import find_thresholds


def trained(plan):
    return np.flatnonzero(plan.train).tolist()


# --- OrderDP


@pytest.mark.parametrize(("draw_of_3", "kept"), [(0.90, [1, 4, 7]), (0.40, [1, 3, 4])])
def test_orderdp_trains_the_top_of_a_random_share(monkeypatch, draw_of_3, kept):
    draws = np.array([0.62, 0.11, 0.35, draw_of_3, 0.48, 0.27, 0.70, 0.05])
    monkeypatch.setattr(Stream, "uniform", lambda self, ids, purpose, copy=0: draws[ids])
    one = method("orderdp", drawn=0.75, kept=0.5)
    rows = ledger(one, [0.5, 2, 0.1, 0, 1.5, 0.9, 0.3, 1.1], unseen=[3])
    assert trained(plan(one, rows)) == kept


def test_orderdp_with_all_drawn_is_the_top_share_and_with_all_kept_is_random():
    losses = np.random.default_rng(0).permutation(100)
    top, draw = method("orderdp", drawn=1.0, kept=0.3), method("orderdp", drawn=0.3, kept=1.0)
    rows = ledger(top, losses)
    assert trained(plan(top, rows)) == np.flatnonzero(losses >= 70).tolist()
    everybody = set().union(*(trained(plan(draw, rows, epoch=e)) for e in range(60)))
    assert len(trained(plan(draw, rows))) == 30 and everybody == set(range(100))


# --- SeTa


def test_seta_slides_its_window_over_the_groups():
    one = method("seta", groups=4, scale=0.5)
    rows = ledger(one, [0.1, 0.2, 0.15, 1, 1.1, 0.9, 3, 3.2, 5, 5.5])
    groups = [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    for epoch, (first, last) in enumerate([(0, 3), (1, 2), (2, 3), (0, 1), (1, 2)]):
        assert trained(plan(one, rows, epoch)) == sum(groups[first : last + 1], []), epoch
    assert len(trained(plan(one, rows, epoch=88, total=100))) == 10, "after delta of the epochs"


def test_seta_with_a_window_of_all_groups_is_everything():
    one = method("seta", scale=1.0)
    rows = ledger(one, np.random.default_rng(0).exponential(size=50), unseen=[7])
    assert all(hidden(plan(one, rows, epoch)) == [] for epoch in range(5))


def test_seta_rounds_half_a_group_to_even():
    one = method("seta", groups=9, scale=0.5)  # 4.5
    rows = ledger(one, np.repeat(np.arange(9.0), 2))
    assert len(trained(plan(one, rows))) == 8


@given(data=st.data())
def test_groups_are_those_of_serial_iterations_whatever_the_split(data):
    value = st.one_of(st.floats(-4, 8, width=32), st.sampled_from([0.0, -0.0, 1.0, 3e38, 1e-45]))
    values = np.array(data.draw(st.lists(value, min_size=0, max_size=40)), np.float32)
    n_groups, cuts = data.draw(st.integers(1, 7)), data.draw(splits(len(values)))
    parts = on_ranks(cuts, lambda everyone, rows: find_thresholds(values[rows], n_groups, everyone))
    assert all((t == parts[0]).all() for t in parts)
    if len(values):
        ordered = np.sort(values).astype(float)
        centre = np.array([ordered[int((g + 0.5) * len(values) / n_groups)] for g in range(n_groups)])
        for _ in range(100):
            group = (values[:, None].astype(float) > (centre[:-1] + centre[1:]) / 2).sum(axis=1)
            exact = [math.fsum(values[group == g].tolist()) for g in range(n_groups)]
            sizes = np.bincount(group, minlength=n_groups)
            centre = np.where(sizes > 0, np.array(exact) / np.maximum(sizes, 1), centre)
        assert (np.searchsorted(parts[0], values) == group).all()


# --- IES


HISTORIES = {
    "a": [2, 1, 0.5, 0.3, 0.2, 0.15, 0.12],
    "b": [1, 0.001, 0.001, 0.0012, 0.0011, 0.0011, 0.0012],
    "c": [0.5] * 7,
    "d": [3, 2, 1, 0, 0, 0, 0],
}


def test_ies_leaves_out_whose_loss_has_settled_once_six_are_known():
    one = method("ies", threshold=1e-3)
    rows = ledger(one, [0, 0, 0, 0], unseen=[0, 1, 2, 3])
    for epoch, losses in enumerate(zip(*HISTORIES.values())):
        decided = plan(one, rows, epoch, total=10)
        assert hidden(decided) == ([1, 2] if epoch >= 6 else []), epoch
        rows = after(one, rows, epoch, range(4), losses)
    assert decided.refresh.tolist() == [False, True, True, False]


def test_a_loss_that_jumps_is_back_in_the_next_epoch_and_a_threshold_of_0_hides_nobody():
    for threshold, out in [(1e-3, [0]), (0.0, [])]:
        one = method("ies", threshold=threshold)
        rows = ledger(one, [0, 0], unseen=[0, 1])
        for epoch in range(7):
            rows = after(one, rows, epoch, [0, 1], [0.5, 0.5 * epoch**2])
        assert hidden(plan(one, rows, 7)) == out
        rows = after(one, rows, 7, [0, 1], [0.6, 0.5])
        assert hidden(plan(one, rows, 8)) == []


@given(st.integers(0, 2**31), st.sampled_from([1e-3, 0.1, 1.0]))
def test_ies_plans_every_epoch_as_a_list_of_losses_says(seed, threshold):
    """By the full history of every sample, with losses that are not finite and epochs that miss a sample."""
    rng, one = np.random.default_rng(seed), method("ies", threshold=threshold)
    rows, histories = ledger(one, [0] * 6, unseen=range(6)), [[] for _ in range(6)]
    for epoch in range(12):
        expected = []
        for i, history in enumerate(histories):
            a, b, c, d, e = ([math.nan] * 5 + history)[-5:]
            change = (abs(c - 2 * b + a) + abs(d - 2 * c + b) + abs(e - 2 * d + c)) / 3
            expected += [i] if len(history) >= 6 and change < threshold else []
        got = plan(one, rows, epoch)
        assert hidden(got) == ([] if len(expected) == 6 else expected)
        ids = np.flatnonzero(rng.random(6) < 0.9)
        losses = rng.choice([0.5, 0.5, 0.5, 0.501, 0.6, 2.0], len(ids)).astype(np.float32)
        losses[rng.random(len(ids)) < 0.03] = rng.choice([np.nan, np.inf])
        for i, loss in zip(ids, losses):
            histories[i].append(float(loss))
        rows = after(one, rows, epoch, ids, losses)


# --- RCAP


def test_rcap_shares_again_what_a_small_class_cannot_give():
    share, n = np.sqrt(np.array([0.2, 0.5, 2]) * [100, 50, 10] / 160), np.array([100, 50, 10])
    assert allocate(60, share, n).tolist() == [24, 26, 10]
    assert allocate(160, share, n).tolist() == n.tolist()
    assert allocate(7, np.zeros(3), np.array([5, 5, 0])).tolist() == [4, 3, 0], (
        "by size where no class has loss"
    )
    assert allocate(30, np.ones(3), np.array([40, 40, 40])).tolist() == [10, 10, 10]


def test_rcap_draws_by_the_softmax_of_the_clipped_loss():
    one = method("rcap", fraction=0.75, temperature=0.5)
    label = np.zeros(4, np.int32)
    rows = ledger(one, [0.1, 0.5, 1, 2], label=label)
    rows = rows.with_columns({"label": np.array([0, 0, 0, 2], np.int32)})  # three classes, so ln 3 at most
    one_class = np.array([0.060083, 0.133716, 0.363478, 0.442723])
    loss = np.minimum(rows.loss.astype(float), math.log(3))
    assert np.exp(loss / 0.5) / np.exp(loss / 0.5).sum() == pytest.approx(one_class, abs=1e-6)
    rows = rows.with_columns({"label": np.full(4, 2, np.int32)})
    counts = np.zeros(4)
    for epoch in range(4000):
        counts += plan(one, rows, epoch).train
    assert counts / 4000 == pytest.approx(one_class, abs=0.03)


def test_rcap_trains_the_same_number_of_classes_alike():
    one = method("rcap", fraction=0.4)
    rows = ledger(one, np.tile([0.3, 0.9], 30), label=np.repeat([0, 1, 2], 20))
    assert np.bincount(rows.extra["label"], plan(one, rows).train).tolist() == [12, 12, 12]


@given(data=st.data())
def test_the_first_of_each_class_are_those_of_a_sort_whatever_the_split(data):
    n = data.draw(st.integers(0, 50))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    value = rng.choice(np.array([0, -1, 2.5, np.nan, np.inf, 1e-45], np.float32), n)
    label, ids = rng.integers(0, 4, n), rng.permutation(n) * 2 ** data.draw(st.sampled_from([0, 9, 33]))
    wanted = rng.integers(0, 20, 4)
    marked = np.concatenate(
        on_ranks(
            data.draw(splits(n)),
            lambda everyone, rows: first_of_class(value[rows], wanted, label[rows], ids[rows], everyone),
        )
    )
    order = sorted(range(n), key=lambda i: (math.inf if np.isnan(value[i]) else value[i], ids[i]))
    for c in range(4):
        assert {i for i in order if label[i] == c and marked[i]} == set(
            [i for i in order if label[i] == c][: wanted[c]]
        )


def test_ledger_parts_of_a_column_with_a_width_are_rows():
    one = method("ies")
    rows = ledger(one, [1, 2, 3])
    assert part(rows, slice(1, 3)).extra["losses"].shape == (2, 5)
    assert one.update(Epoch(0, 9, 0), rows, "epoch")["losses"].shape == (3, 5)
