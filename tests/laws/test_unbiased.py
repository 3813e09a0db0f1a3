"""Unbiased methods keep the expected gradient over many epochs; without their weights they do not.

Every sample has a fixed gradient of three numbers; an epoch adds up times trained x weight x gradient.
"""

import dataclasses

import numpy as np
import pytest

from kakurenbo_hpc.core.ledger import Ledger
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.selection.global_stats import GlobalStats

N, EPOCHS = 80, 400
FAR = 5  # standard errors: by chance in one of a million checks

random = np.random.default_rng(7)
LABEL = np.repeat([0, 1, 2], [50, 20, 10])
LOSS = (random.exponential(size=N) * np.array([0.3, 1, 4])[LABEL]).astype(np.float32)
GRADIENT = np.stack([LOSS + 0.5, 1 + LABEL, random.normal(size=N)], axis=1)

UNBIASED = [
    ("infobatch", {"anneal": 1.0}),
    ("infobatch", {"anneal": 1.0, "prune": "above", "prune_ratio": 0.7}),
    ("infobatch", {"anneal": 1.0, "threshold": "quantile(0.75)", "exact_share": True}),
    ("iswr", {"reweight": True}),
    ("sample_importance", {"unbiased": True}),
    ("sample_importance", {"unbiased": True, "gamma": -1.0}),
    ("sample_importance", {"unbiased": True, "gamma": 2.0, "level": "class"}),
    ("sample_importance", {"unbiased": True, "focus": "random"}),
]


def a_ledger(method):
    ledger = Ledger.unseen(N, 0, N, method.columns)
    extra = dict(ledger.extra)
    if "importance" in extra:
        extra["importance"] = method.apply_gamma(1 - np.exp(-LOSS.astype(np.float64)))
    if "label" in extra:
        extra["label"] = LABEL
    return dataclasses.replace(ledger, loss=LOSS, seen_epoch=np.zeros(N, np.int32), extra=extra)


def distances(method, weighted=True):
    """How far the mean of the epochs' sums is from the sum over all samples, in standard errors, (3,)."""
    ledger = a_ledger(method)
    sums = []
    for number in range(1, EPOCHS + 1):
        plan = method.plan(Epoch(number, EPOCHS + 1, seed=0), ledger, GlobalStats(SerialComm()))
        weight = plan.weight if weighted else 1
        sums.append(((plan.train * weight)[:, None] * GRADIENT).sum(axis=0))
    return abs(np.mean(sums, axis=0) - GRADIENT.sum(axis=0)) / (np.std(sums, axis=0) / np.sqrt(EPOCHS))


@pytest.mark.parametrize(("name", "options"), UNBIASED)
def test_the_expected_sum_of_weighted_gradients_is_the_full_one(name, options):
    assert np.all(distances(METHODS[name](method=name, **options)) < FAR)


@pytest.mark.parametrize(("name", "options"), UNBIASED)
def test_without_the_weights_it_is_not(name, options):
    assert np.any(distances(METHODS[name](method=name, **options), weighted=False) > FAR)


@pytest.mark.parametrize(
    ("name", "options", "weighs"),
    [
        ("infobatch", {"rescale": True}, True),
        ("infobatch", {"rescale": False}, False),
        ("iswr", {"reweight": False}, False),
        ("sample_importance", {"unbiased": False}, False),
    ],
)
def test_the_weights_are_an_option(name, options, weighs):
    method = METHODS[name](method=name, **options)
    plan = method.plan(Epoch(1, 10, seed=0), a_ledger(method), GlobalStats(SerialComm()))
    assert (plan.weight is not None) == weighs


@pytest.mark.parametrize("options", [{}, {"level": "class"}])
def test_the_weights_of_draws_are_one_on_average(options):
    method = METHODS["sample_importance"](method="sample_importance", unbiased=True, **options)
    plans = [
        method.plan(Epoch(e, 201, 0), a_ledger(method), GlobalStats(SerialComm())) for e in range(1, 201)
    ]
    means = [np.average(plan.weight, weights=plan.train) for plan in plans]
    assert abs(np.mean(means) - 1) < FAR * np.std(means) / np.sqrt(len(means))
