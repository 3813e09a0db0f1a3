"""Sampling without replacement across epochs: positions in an endless sequence of permutations."""

from __future__ import annotations

import numpy as np

from ..core.rng import Stream
from .global_stats import GlobalStats


def count_visits(
    start: int,
    stop: int,
    n: int,
    rng: Stream,
    ids: np.ndarray,
    purpose: str,
    everyone: GlobalStats,
    among: np.ndarray | None = None,
) -> np.ndarray:
    """Return how often each row stands at the positions start to stop of the sequence.

    The sequence is one permutation of the n rows of all ranks after the other, each drawn anew: no row
    comes for the (k + 1)th time before all have come k times. Nothing is stored: permutation number k
    orders the rows by their draws of epoch k.

    Args:
        start: first position.
        stop: position after the last.
        n: rows of all ranks that are permuted.
        rng: any stream of the run.
        ids: (S,) int64.
        purpose: of the draws.
        everyone: the rows of all ranks.
        among: (S,) bool, the rows that are permuted; None for all.

    Returns:
        (S,) int64.
    """
    times = np.zeros(len(ids), np.int64)
    for number in range(start // n, -(-stop // n)):
        a, b = max(start - number * n, 0), min(stop - number * n, n)
        if (a, b) == (0, n):
            times += 1 if among is None else among
            continue
        draw = rng.of_epoch(number).uniform(ids, purpose).astype(np.float32)
        times += everyone.first(draw, b, ids, among)
        times -= everyone.first(draw, a, ids, among)
    return times
