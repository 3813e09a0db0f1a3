"""Greedy subsets against a serial oracle: every pick gains as much as the best, to 1e-9."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from support.oracle_subsets import GAINS, batch_means, glister, gradients, matching_pursuit, solve
from support.vectors import group, on_ranks, order, scoring, vectors

from kakurenbo_hpc.selection.subsets.covering import cover_greedily
from kakurenbo_hpc.selection.subsets.exact import round_rows
from kakurenbo_hpc.selection.subsets.gradients import gram, similarities
from kakurenbo_hpc.selection.subsets.matching_pursuit import match_sum

few = settings(max_examples=max(4, settings.default.max_examples // 5))


def random_rows(seed, n, width=3):
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(n, width)).astype(np.float32)
    found = vectors(h, rng.dirichlet(np.ones(3), n), np.zeros(n, np.int64))
    return dataclasses.replace(found, h=round_rows(found.h), r=round_rows(found.r))


@pytest.mark.parametrize("name", GAINS)
@few
@given(seed=st.integers(0, 2**16), n=st.integers(1, 9))
def test_every_pick_gains_as_much_as_the_best(name, seed, n):
    rows, picks = random_rows(seed, n), []
    for pick in order(scoring(name).choose(group(rows, n_kept=max(1, n // 2)))):
        others = [x for x in range(n) if x not in picks]
        gains = {x: GAINS[name](rows, picks, x) for x in others}
        if None not in gains.values():
            assert gains[pick] >= max(gains.values()) - 1e-9 * max(1, abs(gains[pick]))
        picks.append(pick)


@pytest.mark.parametrize("name", ["k_center", "herding"])
@few
@given(data=st.data())
def test_on_small_integers_ties_go_to_the_smaller_id(name, data):
    n = data.draw(st.sampled_from([1, 2, 4, 8]))  # so that means are exact
    h = np.array(
        data.draw(st.lists(st.lists(st.integers(-2, 2), min_size=2, max_size=2), min_size=n, max_size=n))
    )
    rows = vectors(h.astype(np.float32), np.full((n, 3), [0.5, 0.25, 0.25]), np.zeros(n, np.int64))
    picks = []
    for pick in order(scoring(name).choose(group(rows))):
        gains = {x: GAINS[name](rows, picks, x) for x in range(n) if x not in picks}
        if None not in gains.values():
            assert pick == min(x for x, gain in gains.items() if gain == max(gains.values()))
        picks.append(pick)


@few
@given(seed=st.integers(0, 2**16), n=st.integers(1, 20))
def test_gains_of_covering_never_rise_and_are_as_good_as_the_theorem_says(seed, n):
    similarity = similarities(random_rows(seed, n))
    found = cover_greedily(similarity, n)
    assert np.all(np.diff(found.gain) <= 0) and sorted(found.order) == list(range(n))
    covered = similarity[:, found.order].max(axis=1).sum()
    assert found.gain.sum() == covered
    assert cover_greedily(similarity, max(1, n // 2)).order.tolist() == found.order[: max(1, n // 2)].tolist()


@few
@given(seed=st.integers(0, 2**16), n=st.integers(1, 12))
def test_weights_of_craig_are_cluster_sizes(seed, n):
    rows = random_rows(seed, n)
    found = scoring("craig", fraction=0.5).choose(group(rows, n - n // 2))
    picks, g = np.flatnonzero(found.place >= 0), gradients(rows)
    nearest = np.argmin([[np.linalg.norm(g[i] - g[j]) for j in picks] for i in range(n)], axis=1)
    assert found.weight[picks].tolist() == np.bincount(nearest, minlength=len(picks)).tolist()
    whole = scoring("craig").choose(group(rows, n))
    assert whole.weight.tolist() == [1] * n


@pytest.mark.parametrize("variant", ["full", "own_row"])
@pytest.mark.parametrize("damping", [0.0, 0.5])
@few
@given(seed=st.integers(0, 2**16), n=st.integers(1, 12), k=st.integers(1, 12))
def test_matching_pursuit_fits_the_sum(variant, damping, seed, n, k):
    rows = random_rows(seed, n)
    g = gradients(rows)
    if variant == "own_row":
        g = g.reshape(n, 3, -1)[np.arange(n), rows.label]
    target, found = g.sum(axis=0), match_sum(gram(rows, variant), min(k, n), damping, tolerance=0)
    assert np.all(found.weight >= 0) and len(set(found.order.tolist())) == len(found.order)
    residual = target - found.weight @ g[found.order]
    size = target @ target
    assert found.residual == pytest.approx(residual @ residual, abs=1e-7 * max(1, size))
    if k == 1:
        assert found.order[0] == np.argmax(g @ target)
        return
    if len(found.order) > 1:
        # What is left of the target along S is lambda w.
        np.testing.assert_allclose(
            g[found.order] @ residual, damping * found.weight, atol=1e-6 * max(1, size)
        )
    if damping == 0 and len(found.order):
        _, best = nnls(g.T, target)
        assert best**2 <= found.residual + 1e-7 * max(1, size)


@pytest.mark.parametrize("damping", [0.0, 0.5])
@few
@given(seed=st.integers(0, 2**16), n=st.integers(1, 8))
def test_matching_pursuit_picks_and_drops_as_by_explicit_vectors(damping, seed, n):
    rows = random_rows(seed, n, width=6)
    g, before = gradients(rows), []
    target = g.sum(axis=0)
    for turns in range(1, n + 1):
        found = match_sum(gram(rows), turns, damping, tolerance=0)
        picks, (expected, weights) = found.order.tolist(), matching_pursuit(g, target, turns, damping)
        if picks[:-1] == before:
            residual = target - (solve(g, target, before, damping) @ g[before] if before else 0)
            along = {x: g[x] @ residual for x in range(n) if x not in before}
            assert along[picks[-1]] >= max(along.values()) - 1e-9 * (target @ target)
        if np.linalg.norm(target - weights @ g[expected]) < 1e-6 * np.linalg.norm(target):
            break  # what is left is rounding
        assert picks == expected
        np.testing.assert_allclose(found.weight, weights, rtol=1e-6, atol=1e-9)
        before = picks


@few
@given(data=st.data())
def test_grad_match_of_batches_matches_their_means(data):
    """On dyadics all gradients are exact; the batches of 4 lie on three ranks."""
    n, damping = data.draw(st.sampled_from([4, 8, 16, 24])), data.draw(st.sampled_from([0.0, 0.5]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    p = rng.multinomial(8, [1 / 3] * 3, n) / 8
    rows = vectors(rng.integers(-3, 4, (n, 2)).astype(np.float32), p, rng.integers(0, 3, n))
    means = batch_means(rows, 4)
    g, kept = np.array(list(means.values())), n - int(0.5 * n)
    picks, weights = matching_pursuit(g, g.sum(axis=0), -(-kept // 4), damping)
    options = {"per": "batch", "batch": 4, "gradient": "full", "fraction": 0.5, "tolerance": 0.0}
    cuts = [0, n // 4 // 3 * 4, n // 4 // 3 * 8, n]
    found = on_ranks(scoring("grad_match", damping=damping, **options), rows, cuts, kept)
    expected = np.zeros(len(means))
    expected[picks] = weights
    picked = (found.place >= 0) & ~found.filled
    np.testing.assert_allclose(found.weight[picked], np.repeat(expected, 4)[picked], rtol=1e-6, atol=1e-9)
    assert sorted(set(np.flatnonzero(picked) // 4)) == sorted(picks)
    assert np.count_nonzero(found.place >= 0) == kept
    if found.filled.any() and len(picks):
        np.testing.assert_allclose(found.weight[found.filled], np.mean(weights), rtol=1e-6)


@few
@given(data=st.data())
def test_rounds_of_glister_among_all_take_the_largest_gains(data):
    n, rounds = data.draw(st.integers(2, 12)), data.draw(st.integers(1, 4))
    seed, held = data.draw(st.integers(0, 2**16)), data.draw(st.booleans())
    rows = random_rows(seed, n)
    judged = random_rows(seed + 1, 5) if held else None
    options = {"class_balance": False, "greedy": "rgreedy", "rounds": rounds, "eta": 0.5}
    found = on_ranks(
        scoring("glister", **options), rows, [0, n // 3, n // 3, n], n - n // 3, judged, [0, 1, 4, 5]
    )
    before = []
    for number in range(found.place.max() + 1):
        gains = {x: glister(rows, before, x, 0.5, judged) for x in range(n) if x not in before}
        taken = np.flatnonzero(found.place == number).tolist()
        left = [gain for x, gain in gains.items() if x not in taken]
        assert min(gains[x] for x in taken) >= max(left, default=-np.inf) - 1e-6 * max(
            map(abs, gains.values())
        )
        before += taken
    assert len(before) == n - n // 3


def test_grad_match_can_match_held_out_samples():
    rows, judged = random_rows(3, 8), random_rows(4, 5)
    found = scoring("grad_match", gradient="full", damping=0.0).choose(group(rows, 1, judged=judged))
    g, target = gradients(rows), gradients(judged).sum(axis=0)
    assert order(found) == [np.argmax(g @ target)]
    options = {"per": "batch", "batch": 1, "gradient": "full", "damping": 0.0}
    of_batches = scoring("grad_match", **options).choose(group(rows, 1, judged=judged))
    assert order(of_batches) == order(found)
