"""Scores and subsets on worked examples: eight samples of two classes, and six samples over six epochs."""

import numpy as np
import pytest
from support.vectors import CLASS_0, EXAMPLE, LABEL, H, P, group, order, scoring, vectors

from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.selection.subsets import matching_pursuit
from kakurenbo_hpc.selection.subsets.covering import cover_greedily
from kakurenbo_hpc.selection.subsets.exact import quantise
from kakurenbo_hpc.selection.subsets.gradients import distances, gram, similarities
from kakurenbo_hpc.selection.subsets.greedy import greedy_order
from kakurenbo_hpc.selection.subsets.methods import (
    contextual_diversity,
    craig,
    dataset_pruning,
    glister,
    graph_cut,
    herding,
    k_center,
)


def of_outputs(name, **options):
    outputs = {"probability": P, "input": H}
    return scoring(name, **options).of_outputs(outputs, LABEL)


@pytest.mark.parametrize(
    ("name", "options", "scores"),
    [
        ("least_confidence", {}, [0.3, 0.5, 0.5, 0.4, 0.1, 0.6, 0.4, 0.4]),
        ("entropy", {}, [0.80182, 1.02965, 1.02965, 0.89795, 0.39440, 1.08890, 0.89795, 0.95027]),
        ("margin", {}, [-0.5, -0.2, -0.2, -0.3, -0.85, -0.1, -0.3, -0.4]),
        (
            "grand",
            {"last_layer": True},
            [0.52915, 1.37840, 3.28329, 1.52971, 0.17321, 3.02985, 3.07571, 1.2],
        ),
    ],
)
def test_a_score_of_outputs(name, options, scores):
    assert of_outputs(name, **options) == pytest.approx(scores, abs=6e-6)


def test_the_error_norm_orders_otherwise_than_the_gradient_norm():
    assert np.argsort(-of_outputs("el2n"), kind="stable").tolist() == [2, 6, 5, 1, 3, 7, 0, 4]
    by_gradient = of_outputs("grand", last_layer=True)
    assert np.argsort(-by_gradient, kind="stable").tolist() == [2, 6, 5, 3, 1, 7, 0, 4]


def test_gram_of_the_classifiers_gradients():
    row = [1.48, 1.83, 10.78, 4.14, 0.24]
    assert gram(CLASS_0)[2] == pytest.approx(row)
    assert np.diag(gram(CLASS_0)) == pytest.approx([0.28, 1.9, 10.78, 2.34, 0.03])
    assert similarities(CLASS_0)[0] == pytest.approx([1, 0.65767, 0.92593, 0.81503, 0.74550], abs=5e-6)


@pytest.mark.parametrize("variant", ["full", "bias", "own_row"])
def test_the_gram_is_that_of_outer_products(variant):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 20)
    rows = vectors(rng.normal(size=(20, 5)), p, np.full(20, 2))
    with_bias = np.hstack([rows.h, np.ones((20, 1))])
    r = {"full": rows.r, "bias": rows.r, "own_row": rows.r[:, 2:3]}[variant]
    atoms = r if variant == "bias" else np.einsum("ic,id->icd", r, with_bias).reshape(20, -1)
    np.testing.assert_allclose(gram(rows, variant), atoms @ atoms.T, rtol=1e-12, atol=1e-14)
    assert np.sqrt(np.diag(gram(rows, variant))) == pytest.approx(np.linalg.norm(atoms, axis=1))


START_0 = {5: np.array([0.0, -1, -1, -1, -1]), 8: np.array([0.0] + [-1] * 7)}


@pytest.mark.parametrize(
    ("rows", "start", "n", "picks"),
    [
        (EXAMPLE, 0, 5, [0, 5, 6, 1, 2]),
        (CLASS_0, 0, 3, [0, 1, 2]),
        (EXAMPLE.take(LABEL == 1), 0, 2, [0, 1]),
    ],
)
def test_k_center(rows, start, n, picks):
    first = -np.abs(np.arange(len(rows)) - start).astype(float)
    rule = k_center.Farthest(group(rows), first)
    assert order(scores_of(rule, rows, n)) == picks


@pytest.mark.parametrize(("rows", "n", "picks"), [(EXAMPLE, 5, [0, 7, 3, 4, 1]), (CLASS_0, 3, [0, 2, 3])])
def test_contextual_diversity(rows, n, picks):
    rule = contextual_diversity.MostDivergent(group(rows), -np.arange(len(rows), dtype=float))
    assert order(scores_of(rule, rows, n)) == picks


def scores_of(rule, rows, n):
    g = group(rows)
    return k_center.in_order(greedy_order(rule, rows, n, g.comm), len(rows))


@pytest.mark.parametrize(
    ("rows", "picks", "gap"),
    [(EXAMPLE, [7, 3, 0, 6, 2], 0.230489), (CLASS_0, [3, 0, 1], 0.240370)],
)
def test_herding(rows, picks, gap):
    assert order(scoring("herding").choose(group(rows)), len(picks)) == picks
    assert np.linalg.norm(rows.h[picks].mean(axis=0) - rows.h.mean(axis=0)) == pytest.approx(gap, abs=1e-6)
    assert order(scores_of(herding.Nearest(group(rows)), rows, 2)) == picks[:2]


def test_deepcores_herding_takes_the_farthest():
    """Second oracle: the faulty rule that explains the published numbers gives other picks."""

    class Farthest(herding.Nearest):
        def _renew(self):
            super()._renew()
            self.value = -self.value

    assert order(scores_of(Farthest(group()), EXAMPLE, 5)) == [5, 2, 7, 0, 3]
    assert order(scores_of(Farthest(group(CLASS_0)), CLASS_0, 3)) == [2, 3, 0]


def test_facility_location():
    found = cover_greedily(similarities(CLASS_0), 3)
    assert found.order.tolist() == [3, 1, 0]
    assert found.gain == pytest.approx([4.410699, 0.287690, 0.198756], abs=1e-6)
    assert cover_greedily(similarities(EXAMPLE), 5).order.tolist() == [3, 7, 1, 0, 6]
    assert order(scoring("facility_location").choose(group(CLASS_0)), 3) == [3, 1, 0]


@pytest.mark.parametrize(
    ("rows", "trade_off", "picks"),
    [(CLASS_0, 1.0, [3, 4, 0]), (EXAMPLE, 1.0, [3, 4, 7, 0, 6]), (EXAMPLE, 2.0, [3, 4, 7, 0, 5])],
)
@pytest.mark.parametrize("rule", [graph_cut.WithinClass, graph_cut.AmongAll])
def test_graph_cut(rows, trade_off, picks, rule):
    assert order(scores_of(rule(group(rows), trade_off), rows, len(picks))) == picks
    if len(picks) == 3:
        assert rule(group(rows), 1.0).value[3] == pytest.approx(4.410699, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "picks", "weights"),
    [
        ({}, [0, 2, 1], [2, 1, 2]),
        ({"metric": "squared"}, [3, 2, 0], [2, 1, 2]),
        ({"gradient": "bias"}, [1, 4, 2], [3, 1, 1]),
    ],
)
def test_craig(options, picks, weights):
    found = scoring("craig", **options).choose(group(CLASS_0, 3))
    assert order(found) == picks and found.weight[picks].tolist() == weights
    assert found.weight.sum() == 5


def test_gains_of_craig():
    found = craig.match_clusters(CLASS_0, 3)
    largest = np.sqrt(distances(CLASS_0).max())
    assert found.gain * largest == pytest.approx([10.178668, 2.846050, 1.418815], abs=1e-6)


@pytest.mark.parametrize(
    ("variant", "damping", "picks", "weights", "residual"),
    [
        ("full", 0, [2, 1, 3], [1.17815, 1.15821, 0.88165], 0.10326),
        ("full", 0.5, [2, 1, 3], [1.17680, 0.94466, 0.83742], 0.22344),
        ("own_row", 0, [2, 1, 0], [1.375, 1.6, 0.66667], 0),
        ("own_row", 0.5, [2, 1, 3], [1.18943, 0.89001, 0.76518], 0.21969),
    ],
)
def test_grad_match(variant, damping, picks, weights, residual):
    found = matching_pursuit.match_sum(gram(CLASS_0, variant), 3, damping)
    assert found.order.tolist() == picks
    assert found.weight == pytest.approx(weights, abs=6e-6)
    assert found.residual == pytest.approx(residual, abs=6e-6)


def test_grad_match_fills_up_where_nothing_is_left_to_match():
    found = scoring("grad_match", damping=0.0).choose(group(CLASS_0, 4))
    assert order(found, 3) == [2, 1, 0]
    (filled,) = np.flatnonzero(found.place == 3)
    assert filled in (3, 4) and found.weight[filled] == pytest.approx((1.375 + 1.6 + 2 / 3) / 3)


def test_matching_pursuit_drops_what_gets_a_negative_weight():
    atoms = np.array([[3, 2, -1], [1, 2, -1], [0, 3, 3], [-2, 3, 3], [0, 1, 0]], float)
    for turns, picks, weights in (
        (3, [2, 1], [2.12121, 2.27273]),
        (4, [2, 1, 3], [1.94444, 2.33333, 0.16667]),
    ):
        found = matching_pursuit.match_sum(atoms @ atoms.T, turns)
        assert found.order.tolist() == picks
        assert found.weight == pytest.approx(weights, abs=6e-6)


def test_sums_on_the_grid_are_exact():
    x = quantise(np.random.default_rng(1).random(5000), 5000)
    assert x.sum() == x[::-1].sum() == sum(x.tolist())


def test_cal_keeps_who_differs_from_its_neighbors():
    scores = scoring("cal", neighbors=2).choose(group(CLASS_0)).score
    assert scores == pytest.approx([0.10712, 0.24564, 0.54102, 0.37116, 0.34577], abs=6e-6)


def test_influence_by_factors():
    scores = scoring("influence").choose(group()).score
    expected = [0.94241, 1.06011, 1.07494, 0.65574, 0.28032, 1.46550, 1.97812, 0.39441]
    assert scores == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(
    ("n", "hidden", "norm"), [(2, [2, 7], 2), (3, [2, 4, 7], 0), (4, [2, 3, 4, 7], 4)], ids=str
)
def test_influences_of_the_hidden_cancel(n, hidden, norm):
    """The search is greedy with swaps: of two the best are 0 and 5, of norm 1."""
    s = np.array([[3, 0], [-2, 1], [-1, -2], [0, 2], [1, 1], [-3, -1], [2, -3], [0, 1]], float)
    search = dataset_pruning.Search(np.arange(8), np.ones((8, 1)), s, SerialComm())
    search.run(n, 100)
    assert search.norm_square == norm == np.square(s[search.hidden].sum(axis=0)).sum()
    assert np.flatnonzero(search.hidden).tolist() == hidden


@pytest.mark.parametrize(
    ("rows", "options", "picks"),
    [
        (EXAMPLE, {}, [5, 2, 6, 3, 1]),
        (CLASS_0, {}, [2, 3, 1]),
        (CLASS_0, {"eta": 0.5}, [2, 1, 3]),
        (EXAMPLE, {"eta": 1e-12}, [5, 3, 2, 7, 6]),
        (EXAMPLE, {"greedy": "rgreedy", "rounds": 1}, [5, 3, 2, 7, 6]),
    ],
)
def test_glister(rows, options, picks):
    assert order(scoring("glister", **options).choose(group(rows, len(picks))), len(picks)) == picks


def test_gains_of_glister():
    gains, values = glister.Gains(EXAMPLE, EXAMPLE, 0.1, with_input=True), []
    for pick in (5, 2, 6, 3, 1):
        values.append(gains.value()[pick])
        gains.step(np.array([pick]))
    assert values == pytest.approx([0.9619, 1.6327, 0.6655, 0.6498, 0.2057], abs=5e-5)
