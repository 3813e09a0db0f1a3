"""Without replacement across epochs: positions in an endless row of permutations."""

from __future__ import annotations

import numpy as np

from ..core.plan import Epoch
from .global_stats import GlobalStats


def walked(
    start: int,
    stop: int,
    n: int,
    epoch: Epoch,
    ids: np.ndarray,
    purpose: str,
    everyone: GlobalStats,
    among: np.ndarray | None = None,
) -> np.ndarray:
    """Return (S,) int64: how often each row stands at the positions from start to stop.

    The positions are those of one permutation of the n rows of all ranks after the other, each drawn anew: no row
    comes for the (k + 1)th time before all have come k times. ids: (S,) int64; among: (S,) bool, the rows that are
    permuted, n in all. Nothing is remembered: a permutation is a draw for each row, keyed by its number.
    """
    times = np.zeros(len(ids), np.int64)
    for number in range(start // n, -(-stop // n)):
        a, b = max(start - number * n, 0), min(stop - number * n, n)
        if (a, b) == (0, n):
            times += 1 if among is None else among
            continue
        draw = Epoch(number, epoch.total, epoch.seed).uniform(ids, purpose).astype(np.float32)
        times += everyone.first(draw, b, ids, among)
        times -= everyone.first(draw, a, ids, among)
    return times
