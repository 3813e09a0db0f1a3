"""From what a method thinks of its samples to draws with replacement in proportion to it: what all that draw share."""

from __future__ import annotations

import numpy as np

from ..core.ledger import Ledger
from ..core.plan import Epoch, Plan
from .global_stats import GlobalStats


def known(ledger: Ledger) -> np.ndarray:
    """(S,) bool: samples that were seen and whose loss is finite; the others count as +inf, one like the other."""
    return ledger.seen & np.isfinite(ledger.loss)


def all_once(ledger: Ledger) -> Plan:
    """The uniform sampler without replacement."""
    return Plan(train=np.ones(len(ledger), bool))


def drawn(
    weight: np.ndarray,
    epoch: Epoch,
    ledger: Ledger,
    everyone: GlobalStats,
    purpose: str,
    unbiased: bool = False,
    n: int | None = None,
) -> Plan:
    """Return a plan of n (or N) draws with replacement in proportion to weight, completed as ``complete`` says.

    weight: (S,) floats, not negative; what is not finite is not known. unbiased: train each draw with the inverse of its
    weight, so that the expected sum over the draws is the sum over all samples.
    """
    weight = complete(scaled(weight, everyone), everyone)
    return Plan(
        train=everyone.draw(weight, ledger.n_total if n is None else n, ledger.id, epoch, purpose),
        weight=inverse(weight, everyone) if unbiased else None,
        max_fraction=1.0,
    )


def scaled(weight: np.ndarray, everyone: GlobalStats) -> np.ndarray:
    """Return (S,) float32 in the proportions of weight, the largest of all ranks in [1/2, 1); NaN where it is not finite.

    The scale is a power of two, so nothing is rounded that float32 can hold.
    """
    largest = everyone.max(weight)
    exponent = int(np.frexp(largest)[1]) if largest > 0 else 0
    return np.where(np.isfinite(weight), np.ldexp(weight, -exponent), np.nan).astype(np.float32)


def complete(weight: np.ndarray, everyone: GlobalStats) -> np.ndarray:
    """Return weights that can be drawn by: NaN becomes the largest weight of all ranks, 1 if there is none.

    Where all weights are 0 there is nothing to prefer, and all become 1 (our choice).
    weight: (S,) float32, NaN or not negative.
    """
    largest = everyone.max(weight)
    if not largest > 0:
        return np.ones_like(weight)
    return np.where(np.isnan(weight), np.float32(largest), weight)


def inverse(weight: np.ndarray, everyone: GlobalStats) -> np.ndarray:
    """Return (S,) float32, 1 / (N P(i)) for draws in proportion to weight: in expectation over the draws, its mean is 1.

    0 where the weight is 0; where it is so small that float32 cannot hold the inverse, the largest float32.
    """
    mean = everyone.mean(weight).value
    exact = np.divide(mean, weight, out=np.zeros(len(weight)), where=weight > 0, dtype=np.float64)
    return np.minimum(exact, np.finfo(np.float32).max).astype(np.float32)


def of_class(weight: np.ndarray, label: np.ndarray, everyone: GlobalStats) -> np.ndarray:
    """Return (S,) float32: for each sample the mean weight of its class, over those whose weight is known.

    So a class is drawn in proportion to the sum of its weights, and its samples uniformly. weight: (S,) float32, NaN
    where not known; it stays NaN. label: (S,) int, -1 where not known; those count as one more class.
    """
    n_classes = int(everyone.max(label)) + 2
    finite = np.isfinite(weight)
    total = everyone.class_sum(weight, label + 1, n_classes)
    n = everyone.class_sum(finite.astype(np.float32), label + 1, n_classes)
    mean = total / np.maximum(n, 1)
    return np.where(finite, mean[label + 1], np.nan).astype(np.float32)
