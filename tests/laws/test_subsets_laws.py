"""Laws of methods that choose by vectors. A method is tested by being listed; further options in VARIANTS."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ledgers import splits
from support.vectors import group, on_ranks, scoring, vectors

from kakurenbo_hpc.selection.subsets import SCORES
from kakurenbo_hpc.selection.subsets.exact import product, round_rows, squares
from kakurenbo_hpc.selection.subsets.vectors import FromVectors, Vectors

VARIANTS = {
    "k_center": [{}, {"class_balance": False}],
    "contextual_diversity": [{}, {"class_balance": False}],
    "herding": [{}, {"class_balance": False}],
    "graph_cut": [{}, {"class_balance": False}, {"trade_off": 2.0}],
    "craig": [{}, {"gradient": "bias", "metric": "squared"}],
    "grad_match": [
        {},
        {"gradient": "full", "damping": 0.0},
        {"gradient": "bias"},
        {"per": "batch", "batch": 4, "gradient": "full", "damping": 0.0},
        {"per": "batch", "batch": 2, "gradient": "bias"},
    ],
    "glister": [
        {},
        {"greedy": "rgreedy", "rounds": 3},
        {"greedy": "stochastic", "gradient": "bias"},
        {"greedy": "rgreedy", "rounds": 3, "class_balance": False},
        {"greedy": "rgreedy", "class_balance": False, "gradient": "bias"},
    ],
    "prototypes": [{"clusters": 3}],
    "cal": [{"neighbors": 3}],
}
METHODS = [
    pytest.param(scoring(name, **options), id="-".join([name, *options]))
    for name in SCORES.own
    if issubclass(SCORES[name], FromVectors)
    for options in VARIANTS.get(name, [{}])
]
every_method = pytest.mark.parametrize("method", METHODS)
few = settings(max_examples=max(4, settings.default.max_examples // 5))


@st.composite
def rows(draw, most=24):
    """Rows of one class of three, perhaps several times the same, rounded as they are delivered."""
    n, seed = draw(st.integers(1, most)), draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    source = rng.integers(0, draw(st.integers(1, n)), n)  # few different ones make ties
    h = rng.integers(-3, 4, (n, 3)) if draw(st.booleans()) else rng.normal(size=(n, 3))
    found = vectors(h.astype(np.float32)[source], rng.dirichlet(np.ones(3), n)[source], np.zeros(n, np.int64))
    return dataclasses.replace(found, h=round_rows(found.h), r=round_rows(found.r))


def n_kept(method, n):
    return n - int(getattr(method, "fraction", 0.3) * n)


def columns(scores):
    return {name: value for name, value in vars(scores).items() if value is not None}


def assert_same(one, other):
    assert columns(one).keys() == columns(other).keys()
    for name, column in columns(one).items():
        np.testing.assert_array_equal(column, columns(other)[name], name)


# A class is never split: it is on one rank, whatever the number of ranks.
@pytest.mark.parametrize("method", [one for one in METHODS if not one.values[0].by_class])
@few
@given(data=st.data())
def test_any_split_of_the_rows_gives_the_same_choice_to_the_bit(method, data):
    found = data.draw(rows(), label="rows")
    n = len(found)
    whole = method.choose_all(group(found, n_kept(method, n)))
    cuts = data.draw(splits(n), label="cuts")
    cuts = [cut // method.together * method.together for cut in cuts[:-1]] + [n]
    assert_same(whole, on_ranks(method, found, cuts, n_kept(method, n)))
    if getattr(method, "target", None) == "train":
        judged = data.draw(rows(), label="judged")
        ends = [min(cut, len(judged)) for cut in cuts[:-1]] + [len(judged)]
        whole = method.choose_all(group(found, n_kept(method, n), judged=judged))
        assert_same(whole, on_ranks(method, found, cuts, n_kept(method, n), judged, ends))


@every_method
@few
@given(data=st.data())
def test_exactly_as_many_stay_as_the_fraction_says(method, data):
    found = data.draw(rows(), label="rows")
    scores = method.choose_all(group(found, n_kept(method, len(found))))
    if scores.place is None:
        assert np.isfinite(scores.score).all() and method.places == "none"
        return
    kept = len(found) if method.nests else n_kept(method, len(found))
    if method.places == "class":
        assert sorted(scores.place[scores.place >= 0]) == list(range(kept))
    else:
        assert np.count_nonzero(scores.place >= 0) == kept
    assert scores.weight is None or np.all(scores.weight >= 0)


@every_method
@few
@given(data=st.data())
def test_one_that_is_not_finite_comes_last_and_changes_nothing_for_the_others(method, data):
    found = data.draw(rows(), label="rows")
    bad = data.draw(st.integers(0, len(found)), label="bad row")
    whole = method.choose_all(group(found, n_kept(method, len(found))))
    h = np.insert(found.h, bad, np.nan, axis=0)
    ids = np.insert(found.id * 2, bad, 2 * bad - 1)

    def insert(x):
        return np.insert(x, bad, x[0], axis=0)

    worse = Vectors(ids, insert(found.label), h, insert(found.r), insert(found.p))
    same = method.choose_all(group(dataclasses.replace(found, id=found.id * 2), n_kept(method, len(found))))
    scores = method.choose_all(group(worse, n_kept(method, len(found))))
    assert np.isnan(scores.score[bad])
    for name, column in columns(same).items():
        np.testing.assert_array_equal(np.delete(columns(scores)[name], bad), column, name)
    assert whole.place is None or not method.nests or scores.place[bad] == len(found)


@pytest.mark.parametrize("n", [1, 2, 5])
@every_method
def test_equal_samples_are_chosen_by_their_ids_or_draws(method, n):
    p = np.full((n, 3), [0.5, 0.25, 0.25])
    found = vectors(np.ones((n, 2), np.float32), p, np.zeros(n, np.int64))
    scores = method.choose_all(group(found, n_kept(method, n)))
    assert np.isfinite(scores.score).all()
    if scores.place is not None and method.nests and method.method in ("herding", "facility_location"):
        assert scores.place.tolist() == list(range(n))


@few
@given(found=rows(), seed=st.integers(0, 9))
def test_dot_products_are_the_same_in_any_order(found, seed):
    by = np.random.default_rng(seed).permutation(found.h.shape[1])
    h = found.h.astype(np.float64)
    assert np.array_equal(h @ h.T, h[:, by] @ h[:, by].T)
    assert np.array_equal(np.diag(h @ h.T), squares(found.h))
    matrix = np.random.default_rng(seed).normal(size=(3, 4))
    one_by_one = np.concatenate([product(row[None], matrix) for row in found.h])
    assert np.array_equal(product(found.h, matrix), one_by_one)
    np.testing.assert_allclose(product(found.h, matrix), h @ matrix, atol=1e-11)


@given(x=st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=9))
def test_rounding_changes_a_row_by_little_and_only_once(x):
    row = np.array([x], np.float32)
    once = round_rows(row)
    assert np.abs(once.astype(float) - row.astype(float)).max() <= np.abs(row).max() * 2.0**-15
    assert np.array_equal(round_rows(once), once)
