"""Draws with replacement are exactly distributed: shares, and whole epochs as multinomials."""

import dataclasses
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from kakurenbo_hpc.core.ledger import Ledger
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.selection.global_stats import GlobalStats

LOSS = [0.1, 0.5, 0.5, 2.0, 4.0, 0.9, 8.0, 0.3]
PROBABILITY = [0.99, 0.64, 0.0, 0.51, 0.75, 0.84, 0.19, 0.36]  # (1 - p)^(1/2) is .1 .6 1 .7 .5 .4 .9 .8
LABEL = [0, 0, 0, 0, 0, 1, 1, 2]


def shares(weights):
    return np.array(weights) / math.fsum(weights)


def by_class(weights):
    total = [sum(w for w, c in zip(weights, LABEL) if c == label) for label in LABEL]
    return shares([t / LABEL.count(c) for t, c in zip(total, LABEL)])


CASES = {
    "iswr": ("iswr", {}, shares(LOSS)),
    "iswr-lagging": ("iswr", {"scores": "lagging"}, shares(LOSS)),
    "hard": ("sample_importance", {}, shares([0.1, 0.6, 1, 0.7, 0.5, 0.4, 0.9, 0.8])),
    "easy": (
        "sample_importance",
        {"gamma": -1.0},
        shares([100, 1 / 0.36, 1, 1 / 0.49, 4, 1 / 0.16, 1 / 0.81, 1 / 0.64]),
    ),
    "classes": ("sample_importance", {"level": "class"}, by_class([0.1, 0.6, 1, 0.7, 0.5, 0.4, 0.9, 0.8])),
    "uniform": ("sample_importance", {"gamma": 0.0}, shares([1] * 8)),
    "by loss": ("sample_importance", {"metric": "loss", "gamma": 1.0}, shares(LOSS)),
    "prop": ("prop", {"alpha": 1.0, "epsilon": 0.5}, shares([x + 0.5 for x in LOSS])),
    "rank": ("rank", {"alpha": 1.0}, shares([1 / 8, 1 / 5, 1 / 6, 1 / 3, 1 / 2, 1 / 4, 1, 1 / 7])),
}


def epochs_of(name, options, n, n_epochs):
    """Return (n_epochs, n): how often each of the first n samples was drawn."""
    method = METHODS[name](method=name, **options)
    ledger = Ledger.unseen(n, 0, n, method.columns)
    filled = {"probability": np.float32(PROBABILITY[:n]), "label": np.array(LABEL[:n], np.int32)}
    extra = {column: filled.get(column, first) for column, first in ledger.extra.items()}
    loss, seen = np.float32(LOSS[:n]), np.zeros(n, np.int32)
    ledger = dataclasses.replace(ledger, loss=loss, seen_epoch=seen, extra=extra)
    ledger = ledger.with_columns(method.update(Epoch(0, 2, 0), ledger, "epoch"))
    return np.array(
        [method.plan(Epoch(1, 2, seed), ledger, GlobalStats(SerialComm())).train for seed in range(n_epochs)]
    )


@pytest.mark.parametrize("case", CASES)
def test_each_sample_is_drawn_by_its_share(case):
    name, options, share = CASES[case]
    drawn = epochs_of(name, options, 8, 800)
    assert np.all(drawn.sum(axis=1) == 8)
    assert stats.chisquare(drawn.sum(axis=0), drawn.sum() * share).pvalue > 1e-3
    other = share[::-1] if case != "uniform" else shares([9, 8, 8, 8, 8, 8, 8, 7])
    assert stats.chisquare(drawn.sum(axis=0), drawn.sum() * other).pvalue < 1e-3, "the test would not notice"


@pytest.mark.parametrize("case", ["iswr", "hard", "classes"])
def test_an_epoch_is_a_multinomial_of_n_draws(case):
    """All 10 ways to draw three times among three samples, against their probabilities."""
    name, options, share = CASES[case]
    weights = [0.1, 0.5, 0.5] if case == "iswr" else [0.1, 0.6, 1.0] if case == "hard" else [1, 1, 1]
    p = shares(weights)
    drawn = Counter(map(tuple, epochs_of(name, options, 3, 1200).tolist()))
    ways = [way for way in itertools.product(range(4), repeat=3) if sum(way) == 3]
    expected = [1200 * stats.multinomial.pmf(way, 3, p) for way in ways]
    rare = [i for i, e in enumerate(expected) if e < 5]
    observed = [drawn[way] for way in ways]

    def merged(counts):
        return [c for i, c in enumerate(counts) if i not in rare] + (
            [sum(counts[i] for i in rare)] if rare else []
        )

    assert stats.chisquare(merged(observed), merged(expected)).pvalue > 1e-3


def test_draws_of_different_epochs_and_seeds_are_independent():
    drawn = epochs_of("iswr", {}, 8, 600)
    first, second = drawn[:-1, 6], drawn[1:, 6]
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / math.sqrt(len(first))
    method = METHODS["iswr"](method="iswr")
    ledger = Ledger.unseen(60, 0, 60)
    ledger = dataclasses.replace(ledger, loss=np.ones(60, np.float32), seen_epoch=np.zeros(60, np.int32))
    plans = {
        tuple(method.plan(Epoch(e, 9, 0), ledger, GlobalStats(SerialComm())).train.tolist()) for e in range(9)
    }
    assert len(plans) == 9


def test_the_same_draws_on_any_number_of_ranks():
    method = METHODS["iswr"](method="iswr", reweight=True)
    loss = np.random.default_rng(0).exponential(size=200).astype(np.float32)

    def plan(comm):
        rows = slice(comm.rank * 200 // comm.size, (comm.rank + 1) * 200 // comm.size)
        ledger = Ledger.unseen(200, rows.start, rows.stop)
        ledger = dataclasses.replace(ledger, loss=loss[rows], seen_epoch=np.zeros(len(ledger), np.int32))
        return method.plan(Epoch(1, 2, 0), ledger, GlobalStats(comm))

    (alone,) = run_in_threads(1, plan)
    for size in (2, 3, 8):
        plans = run_in_threads(size, plan)
        assert np.concatenate([p.train for p in plans]).tolist() == alone.train.tolist()
        assert np.concatenate([p.weight for p in plans]).tolist() == alone.weight.tolist()
