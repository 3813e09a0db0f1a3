"""Weighted sampling with replacement: plans from weights per sample."""

from __future__ import annotations

import numpy as np

from ..core.ledger import Ledger
from ..core.plan import Epoch, Plan
from .float_keys import CHUNK
from .global_stats import GlobalStats


def has_loss(ledger: Ledger) -> np.ndarray:
    """Return (S,) bool: samples that were seen and have a finite loss; all others count as of loss +inf."""
    return ledger.seen & np.isfinite(ledger.loss)


def train_all(ledger: Ledger) -> Plan:
    """Return the plan that trains every sample once: the uniform sampler without replacement."""
    return Plan(train=np.ones(len(ledger), bool))


def draw_plan(
    weight: np.ndarray,
    epoch: Epoch,
    ledger: Ledger,
    everyone: GlobalStats,
    purpose: str,
    unbiased: bool = False,
    n: int | None = None,
) -> Plan:
    """Return a plan of n draws with replacement in proportion to weight.

    Args:
        weight: (S,) floats, not negative; one that is not finite is unknown and becomes the largest of all
            ranks.
        epoch: whose draws these are.
        ledger: the rows of this rank.
        everyone: the rows of all ranks.
        purpose: of the draws.
        unbiased: weigh each draw by the inverse of its probability, so that the expected sum over the draws
            is the sum over all samples.
        n: draws of all ranks together; N if not given.
    """
    weight, n = fill_unknown(scale_to_float32(weight, everyone), everyone), ledger.n_total if n is None else n
    total = everyone.sum(weight).value
    return Plan(
        train=everyone.draw(weight, n, ledger.id, epoch.rng, purpose, total),
        weight=importance_weights(weight, everyone) if unbiased else None,
        max_fraction=1.0,
        probability=weight * np.float32(n / total),
    )


def scale_to_float32(weight: np.ndarray, everyone: GlobalStats) -> np.ndarray:
    """Return (S,) float32 in proportion to weight, the largest in [1/2, 1); NaN where it is not finite.

    The scale is a power of two, so nothing is rounded that float32 can hold.
    """
    largest = everyone.max(weight)
    exponent = int(np.frexp(largest)[1]) if largest > 0 else 0
    half = -exponent // 2  # two factors, since one may be too large for float64; ldexp is slow on arrays
    factors, scaled = (
        (np.ldexp(1.0, half), np.ldexp(1.0, -exponent - half)),
        np.empty(len(weight), np.float32),
    )
    for start in range(0, len(weight), CHUNK):
        part = weight[start : start + CHUNK]
        scaled[start : start + CHUNK] = part * factors[0] * factors[1]
        unknown = ~np.isfinite(part)
        if unknown.any():
            scaled[start : start + CHUNK][unknown] = np.nan
    return scaled


def fill_unknown(weight: np.ndarray, everyone: GlobalStats) -> np.ndarray:
    """Return (S,) float32 weights in which NaN became the largest weight of all ranks, 1 if there is none.

    Where all weights are 0 there is nothing to prefer, and all become 1 (our choice). weight: (S,) float32,
    NaN or not negative.
    """
    largest = everyone.max(weight)
    if not largest > 0:
        return np.ones_like(weight)
    unknown = np.isnan(weight)
    return np.where(unknown, np.float32(largest), weight) if unknown.any() else weight


def importance_weights(weight: np.ndarray, everyone: GlobalStats) -> np.ndarray:
    """Return (S,) float32, 1 / (N P(i)) for draws in proportion to weight: in expectation their mean is 1.

    0 where the weight is 0; where it is so small that float32 cannot hold the inverse, the largest float32.
    """
    mean = everyone.mean(weight).value
    exact = np.divide(mean, weight, out=np.zeros(len(weight)), where=weight > 0, dtype=np.float64)
    return np.minimum(exact, np.finfo(np.float32).max).astype(np.float32)


def average_by_class(weight: np.ndarray, label: np.ndarray, everyone: GlobalStats) -> np.ndarray:
    """Return (S,) float32: for each sample the mean weight of its class, over those whose weight is known.

    So a class is drawn in proportion to the sum of its weights, and its samples uniformly.

    Args:
        weight: (S,) float32, NaN where unknown; it stays NaN.
        label: (S,) int, -1 where unknown; these samples count as one more class.
        everyone: the rows of all ranks.
    """
    n_classes = int(everyone.max(label)) + 2
    finite = np.isfinite(weight)
    total = everyone.class_sum(weight, label + 1, n_classes)
    n = everyone.class_sum(finite.astype(np.float32), label + 1, n_classes)
    mean = total / np.maximum(n, 1)
    return np.where(finite, mean[label + 1], np.nan).astype(np.float32)
