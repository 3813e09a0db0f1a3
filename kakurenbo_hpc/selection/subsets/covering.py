"""Greedy facility location: maximises sum_i max_{j chosen} s_ij, with exact gains updated after each pick."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_ROWS = 256  # of changed rows at a time


class Covering(NamedTuple):
    """A greedy cover.

    Attributes:
        order: (k,) int64, the picks.
        gain: (k,) float64, what each added.
        nearest: (n,) int64, for each row the pick that it is most similar to; a pick is its own, and of
            equals the earlier one counts.
    """

    order: np.ndarray
    gain: np.ndarray
    nearest: np.ndarray


def cover_greedily(similarity: np.ndarray, n_picks: int) -> Covering:
    """Return the greedy cover from an empty set, ties by the smaller row.

    A pick changes the gains of others only through the rows that it covers better, about n / t of them after
    t picks. So gains are kept up to date instead of evaluated anew, lazily or not, and are the same.

    Args:
        similarity: (n, n) float64, symmetric, not negative, on the grid of ``exact.quantise``.
        n_picks: at most n.
    """
    n = len(similarity)
    covered, gains = np.zeros(n), similarity.sum(axis=0)
    order, gained = np.empty(n_picks, np.int64), np.empty(n_picks)
    nearest = np.full(n, -1, np.int64)
    for number in range(n_picks):
        pick = int(np.argmax(gains))
        order[number], gained[number] = pick, gains[pick]
        better = similarity[pick]
        changed = np.flatnonzero(better > covered)
        for start in range(0, len(changed), _ROWS):
            rows = changed[start : start + _ROWS]
            before, after = covered[rows, None], better[rows, None]
            lost = similarity[rows]
            np.clip(lost, before, after, out=lost)
            gains -= lost.sum(axis=0) - before.sum()
        nearest[changed if number else slice(None)] = pick
        nearest[pick] = pick
        covered[changed] = better[changed]
        gains[pick] = -np.inf
    return Covering(order, gained, nearest)
