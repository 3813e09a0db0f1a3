"""One-dimensional k-means over all ranks' values: thresholds between groups, exact for any split."""

from __future__ import annotations

import numpy as np

from .float_keys import combine_exponents, extract_mantissas, from_keys, to_keys
from .global_stats import GlobalStats

_MOST_ITERATIONS = 100
_DIGIT = 4  # bits of all order statistics decided by one allreduce


def find_thresholds(value: np.ndarray, n_groups: int, everyone: GlobalStats) -> np.ndarray:
    """Return the thresholds t between the groups: a value is in group g if t[g - 1] < value <= t[g].

    Lloyd's iterations until no centre moves, at most 100, from the order statistics of rank
    floor((g + 1/2) n / G), counted from 0. A value as far from two centres is in the lower group; an empty
    group keeps its centre. Each rank sorts its values once; an iteration costs O(G log n), and an allreduce
    of G counts and of G exact sums.

    Args:
        value: (k,) float32, finite.
        n_groups: G.
        everyone: the values of all ranks.

    Returns:
        (G - 1,) float32, ascending; all 0 if no rank has a value.
    """
    sums = _SliceSums(np.sort(value + np.float32(0)), everyone)  # -0 becomes 0
    n = int(everyone.add(np.array([len(value)]))[0])
    if not n or n_groups == 1:
        return np.zeros(n_groups - 1, np.float32)
    places = np.array([(2 * g + 1) * n // (2 * n_groups) for g in range(n_groups)])
    centre = _order_statistics(sums.ordered, places, everyone).astype(np.float64)
    for _ in range(_MOST_ITERATIONS):
        threshold = _round_down((centre[:-1] + centre[1:]) / 2)
        means = sums.means(threshold)
        moved = np.where(np.isnan(means), centre, means)
        if np.array_equal(moved, centre):
            break
        centre = moved
    return threshold


class _SliceSums:
    """Exact sums over slices of sorted values: values of one exponent stand side by side."""

    def __init__(self, ordered: np.ndarray, everyone: GlobalStats):
        raw = ordered.view(np.uint32)
        signed = np.where(raw >> np.uint32(31), -1, 1) * extract_mantissas(raw).astype(np.int64)
        cell = (raw >> np.uint32(23)).astype(np.int64)  # sign and exponent
        first = np.flatnonzero(np.diff(cell, prepend=-1))
        self.ordered, self._everyone = ordered, everyone
        self._until = np.concatenate([np.zeros(1, np.int64), np.cumsum(signed)])
        self._first, self._end = first, np.append(first[1:], len(ordered))[: len(first)]
        self._exponent = cell[first] & 255
        ends = [-int(self._exponent.min(initial=255)), int(self._exponent.max(initial=0))]
        self._low = -int(everyone.max(np.array(ends[:1])))
        self._width = max(1, int(everyone.max(np.array(ends[1:]))) - self._low + 1)

    def means(self, threshold: np.ndarray) -> np.ndarray:
        """Return (G,) float64, the mean of each group over all ranks, rounded once; NaN for an empty one."""
        edges = np.searchsorted(self.ordered, threshold, side="right")
        edges = np.concatenate([[0], edges, [len(self.ordered)]])
        run_sums = np.diff(self._until[np.clip(edges[:, None], self._first, self._end)], axis=0)
        sums = np.zeros((len(edges) - 1, self._width + 1), np.int64)
        for run, exponent in enumerate(self._exponent.tolist()):
            sums[:, exponent - self._low] += run_sums[:, run]
        sums[:, -1] = np.diff(edges)
        return np.array([_mean(row[:-1], self._low, int(row[-1])) for row in self._everyone.add(sums)])


def _mean(sums: np.ndarray, low: int, n: int) -> float:
    return combine_exponents(sums, low, n) if n else np.nan


def _order_statistics(ordered: np.ndarray, places: np.ndarray, everyone: GlobalStats) -> np.ndarray:
    """Return the values of all ranks at these places, from 0, of their common order. Eight allreduces."""
    keys, found = to_keys(ordered), np.zeros(len(places), np.int64)
    for shift in range(32 - _DIGIT, -1, -_DIGIT):
        edges = found[:, None] + (np.arange(1, 1 << _DIGIT) << shift)
        n_below = everyone.add(np.searchsorted(keys, edges.astype(np.uint32)))
        found += (n_below <= places[:, None]).sum(axis=1) << shift
    return from_keys(found.astype(np.uint32))


def _round_down(value: np.ndarray) -> np.ndarray:
    """Return the largest float32 that is not above each value: a float32 is above both or neither."""
    near = value.astype(np.float32)
    return np.where(near > value, np.nextafter(near, np.float32(-np.inf)), near)
