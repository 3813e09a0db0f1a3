"""Scores against a serial oracle on random data, over any split; and every method and score has an oracle."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import oracle, oracle_methods
from support.ledgers import on_ranks, splits
from support.method_examples import noted
from support.oracle_scores import (
    OF_OUTPUTS,
    OF_TRAINING,
    OF_VECTORS,
    beta_order,
    clusters,
    influences,
    norm,
    strata,
)
from support.oracle_subsets import GAINS
from support.vectors import group, scoring, vectors
from support.vectors import on_ranks as chosen_on_ranks

from kakurenbo_hpc.core.ledger import Ledger
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.core.rng import Stream
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.selection.subsets import SCORES
from kakurenbo_hpc.selection.subsets.exact import round_all, round_rows

few = settings(max_examples=max(4, settings.default.max_examples // 5))
seeds, sizes = st.integers(0, 2**16), st.integers(1, 12)
EPOCHS = 6


def random_rows(seed, n):
    rng = np.random.default_rng(seed)
    h = round_rows(rng.normal(size=(n, 3)).astype(np.float32))
    found = vectors(h, rng.dirichlet(np.ones(3), n), np.zeros(n, np.int64))
    return type(found)(found.id, found.label, h, round_rows(found.r), found.p)


@pytest.mark.parametrize("name", OF_OUTPUTS)
@few
@given(seed=seeds, n=sizes)
def test_scores_of_outputs(name, seed, n):
    rng = np.random.default_rng(seed)
    p, h, label = rng.dirichlet(np.ones(4), n), rng.normal(size=(n, 3)), rng.integers(0, 4, n)
    options = {"last_layer": True} if name == "grand" else {}
    found = scoring(name, **options).of_outputs({"probability": p, "input": h}, label)
    expected = [OF_OUTPUTS[name](list(p[i]), list(h[i]), label[i]) for i in range(n)]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def trained(method, p, margin, rows):
    """The ledger of these rows after training; p and margin (n, EPOCHS) float32, correct above one half."""
    n, ids = len(p), np.arange(len(p))[rows]
    ledger = Ledger.unseen(n, rows.start, rows.stop, method.columns)
    for epoch in range(EPOCHS):
        known = {"probability": p[ids, epoch], "margin": margin[ids, epoch]}
        label = np.zeros(len(ids), np.int32)
        extra = {name: known.get(name, label) for name in method.forward_columns}
        ledger = noted(ledger, epoch, ids, np.where(p[ids, epoch] > 0.5, -1, 1), **extra)
        ledger = ledger.with_columns(method.update(Epoch(epoch, EPOCHS, 0), ledger, "epoch"))
    return ledger


def of_training(method, p, margin, cuts, seed=0):
    """What a score of training says, on these ranks."""
    parts = on_ranks(
        cuts,
        lambda everyone, rows: method.of_training(
            Epoch(EPOCHS, EPOCHS + 1, seed), trained(method, p, margin, rows), everyone
        ),
    )
    place = None if parts[0].place is None else np.concatenate([part.place for part in parts])
    return np.concatenate([part.score for part in parts]), place


@st.composite
def histories(draw):
    """p_y and margins of up to 12 samples, (n, EPOCHS) float32, with ties."""
    n = draw(sizes)
    rng = np.random.default_rng(draw(seeds))
    p = rng.choice([0.1, 0.25, 0.4, 0.6, 0.9], (n, EPOCHS)) + rng.choice([0, 0.01, 0.02], (n, 1))
    return p.astype(np.float32), (2 * p - 1).astype(np.float32)


@pytest.mark.parametrize("name", OF_TRAINING)
@few
@given(data=st.data(), history=histories())
def test_scores_of_training(name, data, history):
    p, margin = history
    options = {"window": data.draw(st.integers(2, 4))} if name in ("dyn_unc", "dual") else {}
    found, _ = of_training(scoring(name, **options), p, margin, data.draw(splits(len(p))))
    expected = [
        OF_TRAINING[name](p[i].tolist(), margin[i].tolist(), (p[i] > 0.5).tolist(), options.get("window"))
        for i in range(len(p))
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@few
@given(data=st.data(), history=histories(), fraction=st.sampled_from([0.3, 0.5, 0.9]), seed=st.integers(0, 9))
def test_dual_draws_by_beta(data, history, fraction, seed):
    p, margin = history
    n = len(p)
    method = scoring("dual", window=3, sample="beta", fraction=fraction)
    scores, place = of_training(method, p, margin, data.draw(splits(n)), seed)
    draws = Stream(seed).uniform(np.arange(n), "dual").tolist()
    means = [math.fsum(one.tolist()) / EPOCHS for one in p]
    order = beta_order(scores.tolist(), means, fraction, method.c, method.best, draws)
    n_kept = n - math.floor(fraction * n)
    assert place.tolist() == [order.index(i) if order.index(i) < n_kept else -1 for i in range(n)]


@few
@given(
    data=st.data(),
    history=histories(),
    beta=st.sampled_from([0.0, 0.25]),
    n_strata=st.integers(1, 5),
    fraction=st.sampled_from([0.0, 0.3, 0.7]),
    seed=st.integers(0, 9),
)
def test_ccs_keeps_what_the_strata_give(data, history, beta, n_strata, fraction, seed):
    p, margin = history
    n = len(p)
    method = scoring("ccs", beta=beta, strata=n_strata, fraction=fraction)
    scores, place = of_training(method, p, margin, data.draw(splits(n)), seed)
    draws = Stream(seed).uniform(np.arange(n), "ccs").tolist()
    aum = scores.astype(np.float32).astype(float).tolist()
    kept = strata(aum, beta, n_strata, n - math.floor(fraction * n), draws)
    assert set(np.flatnonzero(place >= 0).tolist()) == kept


@few
@given(n=sizes, seed=st.integers(0, 9))
def test_a_random_score_and_the_held_out_are_draws_of_the_run(n, seed):
    epoch, ids = Epoch(3, 4, seed), np.arange(n)
    ledger = Ledger.unseen(n, 0, n)
    drawn = Stream(seed).uniform(ids, "random score")
    assert np.array_equal(scoring("random").of_training(epoch, ledger, None).score, drawn)
    held_out = Stream(seed).uniform(ids, "hold-out") < 0.3
    assert np.array_equal(scoring("irreducible", hold_out=0.3).is_scored(epoch, ids), ~held_out)


@pytest.mark.parametrize("name", OF_VECTORS)
@few
@given(data=st.data(), seed=seeds, n=sizes, k=st.integers(1, 4))
def test_scores_of_vectors(name, data, seed, n, k):
    rows = random_rows(seed, n)
    method = scoring(name, **({"neighbors": k} if name in ("cal", "d2_pruning") else {}))
    cuts = data.draw(splits(n)) if method.among_all else [0, n]
    found = chosen_on_ranks(method, rows, cuts, n).score
    np.testing.assert_allclose(found, OF_VECTORS[name](rows, k), rtol=1e-3, atol=1e-6)


@few
@given(data=st.data(), seed=seeds, n=sizes, k=st.integers(1, 4))
def test_prototypes_are_centers_of_k_means(data, seed, n, k):
    rows = random_rows(seed, n)
    found = chosen_on_ranks(scoring("prototypes", clusters=k), rows, data.draw(splits(n)), n).score
    h = rows.h.astype(float)
    unit = round_all(h / np.linalg.norm(h, axis=1, keepdims=True), 0.75)
    draws = Stream(0).uniform(np.arange(n), "prototypes").astype(np.float32)
    first = sorted(sorted(range(n), key=lambda i: (draws[i], i))[: min(k, n)])
    centers, of = clusters(unit, first)
    expected = [1 - unit[i] @ centers[of[i]] / (norm(unit[i]) * norm(centers[of[i]])) for i in range(n)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@few
@given(seed=seeds, n=st.integers(1, 8), fraction=st.sampled_from([0.2, 0.4, 0.6]))
def test_what_dataset_pruning_hides_cancels_better_than_greedily(seed, n, fraction):
    rows, n_hidden = random_rows(seed, n), math.floor(fraction * n)
    found = scoring("dataset_pruning", fraction=fraction).choose(group(rows, n - n_hidden))
    hidden = np.flatnonzero(found.place < 0)
    s, picks = influences(rows, 0.1), []
    for _ in range(n_hidden):
        others = [i for i in range(n) if i not in picks]
        picks.append(min(others, key=lambda i: norm(s[[*picks, i]].sum(axis=0))))
    best = min(norm(s[list(some)].sum(axis=0)) for some in itertools.combinations(range(n), n_hidden))
    ours = norm(s[hidden].sum(axis=0))
    assert len(hidden) == n_hidden
    assert best - 1e-9 <= ours <= norm(s[picks].sum(axis=0)) * (1 + 1e-3) + 1e-6


# Chosen anew every few epochs by the search of the score of the same name.
ONLINE = {"grad_match", "craig", "glister"}
# Whose oracle is a network's own gradients, or an example in test_subsets_oracle.py.
OTHERWISE = {
    *("deepfool", "grad_match", "irreducible", "random", "ccs", "prototypes", "dataset_pruning", "tdds")
}


def test_every_method_has_an_oracle():
    serial = {name for name in METHODS.own if hasattr(oracle_methods, name) or hasattr(oracle, name)}
    assert set(METHODS.own) - ONLINE == serial


def test_every_score_has_an_oracle():
    assert set(SCORES.own) <= {*OF_OUTPUTS, *OF_TRAINING, *OF_VECTORS, *GAINS} | OTHERWISE
