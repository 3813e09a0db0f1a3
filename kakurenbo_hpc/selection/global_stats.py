"""Global statistics over all ranks' samples: thresholds (k-th smallest, ties by id), counts, exact sums.

Methods ask these questions through ``GlobalStats``, usually as the variable ``everyone``. No answer depends
on how the rows are split over ranks, and no message is as long as the data set. All ranks call together,
each with its own rows.

Thresholds and ties: ``smallest``, ``largest`` and ``first`` mark an exact number of rows. ``_mark`` orders
them by (value, id), NaN as +inf, so of rows whose value equals the threshold (``threshold.py``) those of
smaller id are marked, on any number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..core.ledger import ids_at
from ..core.rng import Stream
from ..distributed.comm import Comm
from ..errors import WorldError
from .float_keys import (
    CHUNK,
    INF_KEY,
    combine_exponents,
    combine_rows,
    extract_mantissas,
    from_keys,
    sum_mantissas,
    to_keys,
)
from .poisson_sampling import generate_arrivals
from .sorting import find_positions
from .threshold import Threshold, find_threshold, is_at_most, is_below, is_equal, select

_HISTOGRAM_SHIFT = 21  # a histogram counts keys by their 11 highest bits: 2048 counts, 16 KB


Ids = (
    np.ndarray | range | Callable[[np.ndarray], np.ndarray]
)  # of all rows, or a function from rows to theirs


class Mean(NamedTuple):
    """A mean over finite values, and how many of them there were."""

    value: float
    n: int


class Sum(NamedTuple):
    """A sum over finite values, and how many of them there were."""

    value: float
    n: int


class Histogram(NamedTuple):
    """A histogram: counts[i] finite values lie in [edges[i], edges[i + 1]), about four bins per octave."""

    edges: np.ndarray
    counts: np.ndarray


class GlobalStats:
    """Questions to the samples of all ranks together, of which this rank has some rows."""

    def __init__(self, comm: Comm):
        self._comm = comm

    def kth_smallest(self, value: np.ndarray, k: int, ids: np.ndarray) -> tuple[float, int]:
        """Return the k-th smallest (value, id) of all ranks together; NaN counts as +inf.

        Args:
            value: (S,) float32, this rank's rows.
            k: counted from 1, at most the number of rows of all ranks.
            ids: (S,) int64, not negative and unique over all ranks.

        Returns:
            The same pair on every rank.

        Raises:
            ValueError: k is out of range, on every rank alike.
        """
        (n,) = self.count(np.ones(len(value), bool))
        if not 1 <= k <= n:
            raise ValueError(f"k is {k}, but there are {n} rows")
        value = np.asarray(value, np.float32)
        found = find_threshold(value, None, k, self._comm)
        return float(found.value), self._kth_id(ids[is_equal(value, found.value)], found)

    def smallest(
        self, value: np.ndarray, fraction: float, ids: np.ndarray | range, among: np.ndarray | None = None
    ) -> np.ndarray:
        """Mark the floor(fraction x N) rows of smallest (value, id), N the rows of all ranks; NaN is +inf.

        Args:
            value: (S,) float32.
            fraction: of all rows, 0 to 1.
            ids: (S,) int64, unique over all ranks; or a range, then those of higher ranks are higher.
            among: (S,) bool, the only rows that may be marked; None for all. They do not change N, and if
                they are too few all of them are marked.

        Returns:
            (S,) bool.
        """
        return self._mark(value, ids, among, fraction=fraction)

    def largest(
        self, value: np.ndarray, fraction: float, ids: np.ndarray | range, among: np.ndarray | None = None
    ) -> np.ndarray:
        """Mark the floor(fraction x N) rows of largest value, ties by the smaller id; see ``smallest``."""
        return self._mark(value, ids, among, fraction=fraction, highest=True)

    def first(
        self, value: np.ndarray, n: int, ids: np.ndarray | range, among: np.ndarray | None = None
    ) -> np.ndarray:
        """Mark the n rows of smallest (value, id); as ``smallest``, with a count instead of a fraction."""
        return self._mark(value, ids, among, n=n)

    def draw(
        self,
        weight: np.ndarray,
        n: int,
        ids: np.ndarray,
        rng: Stream,
        purpose: str,
        total: float | None = None,
    ) -> np.ndarray:
        """Draw exactly n times with replacement, in proportion to weight over all ranks: a multinomial draw.

        Every sample has a Poisson process of rate ``weight``; the n earliest arrivals of all processes are
        the draws, ties by (id, number of the arrival). Their order does not depend on the scale of the
        weights, whose sum only says how far ahead to generate.

        Args:
            weight: (S,) float32, finite and not negative, not all of them 0 over all ranks.
            n: draws of all ranks together.
            ids: (S,) int64.
            rng: the stream of the draws.
            purpose: of the draws.
            total: the sum of the weights over all ranks, where it is known.

        Returns:
            (S,) int64, how often each row was drawn.
        """
        total = self.sum(weight).value if total is None else total
        horizon = (n + 6 * np.sqrt(n) + 6) / total
        while True:
            row, number, time = generate_arrivals(weight, ids, horizon, rng, purpose)
            if self.add(np.array([len(row)]))[0] >= n:
                break
            horizon *= 2  # about once in a billion epochs
        number_bits = 63 - max(32, self._largest(ids).bit_length())
        earliest = self._mark(
            time, lambda tied: (ids[row[tied]] << number_bits) | number[tied].astype(np.int64), n=n
        )
        return np.bincount(row[earliest], minlength=len(ids))

    def mean(self, value: np.ndarray) -> Mean:
        """Return the exactly rounded mean of the finite values, NaN if there are none; see ``sum``."""
        total, n = self.sum(value)
        return Mean(total / n if n else float("nan"), n)

    def sum(self, value: np.ndarray) -> Sum:
        """Return the sum of the finite values, as if added without any rounding and rounded once to float64.

        One allreduce of 257 int64. Mantissas are integers: they add exactly within each exponent, up to
        2**39 values.

        Args:
            value: (S,) float32, integers or bool.
        """
        value = np.asarray(value)
        if value.dtype != np.float32:
            total, n = self._comm.sum(np.array([value.sum(dtype=np.int64), len(value)]))
            return Sum(float(total), int(n))
        sums = self._comm.sum(sum_mantissas(value))
        return Sum(combine_exponents(sums[:-1]), int(sums[-1]))

    def count(self, *masks: np.ndarray) -> list[int]:
        """Return, for each (S,) bool mask, how many rows of all ranks it marks. One allreduce."""
        return self._comm.sum(np.array([np.count_nonzero(mask) for mask in masks], np.int64)).tolist()

    def add(self, counts: np.ndarray) -> np.ndarray:
        """Return the elementwise sum over ranks of integers, of one shape on all ranks. One allreduce."""
        return self._comm.sum(counts.astype(np.int64))

    def max(self, value: np.ndarray) -> float:
        """Return the largest finite value of all ranks, -inf if there is none. One allreduce."""
        value = np.asarray(value)
        local = value.max() if len(value) else -np.inf
        if len(value) and not np.isfinite(local):  # seldom, and several times as slow
            local = np.max(value, initial=-np.inf, where=np.isfinite(value))
        return float(self._comm.max(np.array([local], np.float64))[0])

    def class_sum(self, value: np.ndarray, label: np.ndarray, n_classes: int) -> np.ndarray:
        """Return (n_classes,) float64, the exact sum of the finite values of each class.

        Args:
            value: (S,) float32.
            label: (S,) int, from 0.
            n_classes: more than the largest label of any rank.
        """
        finite = np.isfinite(value)
        if not finite.all():
            value, label = value[finite], label[finite]
        raw = np.ascontiguousarray(value).view(np.uint32)
        size = raw & np.uint32(0x7FFFFFFF)  # in the order of exponents
        # Values of one kind have few different exponents: n_classes numbers are sent for each in their range.
        ends = [-int(size.min() >> 23), int(size.max() >> 23)] if len(raw) else [-255, 0]
        low, high = (int(end) for end in self._comm.max(np.array(ends)) * [-1, 1])
        width = max(1, high - low + 1)
        sums = np.zeros(n_classes * width, np.int64)
        for start in range(0, len(raw), CHUNK):
            part = slice(start, start + CHUNK)
            mantissa = np.copysign(extract_mantissas(raw[part]), raw[part].view(np.float32))
            cell = label[part].astype(np.int64) * width
            cell += (size[part] >> np.uint32(23)).astype(np.int64) - low
            sums += np.bincount(cell, mantissa, len(sums)).astype(np.int64)
        return combine_rows(self._comm.sum(sums).reshape(n_classes, width), low)

    def percentile(self, value: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Return (S,) float64, for each row the share of all rows with a smaller value; NaN is +inf."""
        positions = find_positions(to_keys(value), ids, self._comm)
        return positions.first_of_ties / max(1, positions.n)

    def rank(self, value: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Return (S,) int64, each row's position from 0 in the order of (value, id); NaN is +inf."""
        return find_positions(to_keys(value), ids, self._comm).position

    def histogram(self, value: np.ndarray) -> Histogram:
        """Return the histogram of the finite values, without empty ends. One allreduce of 2048 int64."""
        keys = to_keys(value[np.isfinite(value)])
        counts = self._comm.sum(np.bincount(keys >> np.uint32(_HISTOGRAM_SHIFT), minlength=2048))
        (used,) = np.nonzero(counts)
        if not len(used):
            return Histogram(np.zeros(0, np.float32), np.zeros(0, np.int64))
        bins = np.arange(used[0], used[-1] + 2, dtype=np.uint64) << np.uint64(_HISTOGRAM_SHIFT)
        return Histogram(
            from_keys(np.minimum(bins, int(INF_KEY)).astype(np.uint32)), counts[used[0] : used[-1] + 1]
        )

    def concatenate(self, value: np.ndarray) -> np.ndarray:
        """Return all ranks' values, concatenated, on every rank; for arrays of a batch, not of a ledger."""
        return self._comm.allgather(value)

    def agree(self, value: object, what: str) -> None:
        """Check that all ranks have the same value.

        Raises:
            WorldError: they differ in ``what``; on all ranks alike.
        """
        values = self._comm.gather(value)
        other = next((rank for rank, of_rank in enumerate(values) if of_rank != values[0]), None)
        if other is not None:
            problem = WorldError(
                f"ranks differ in {what}: rank 0 has {values[0]}, rank {other} has {values[other]}; "
                "give all the same"
            )
            problem.on_all_ranks = True
            raise problem

    def _mark(
        self,
        value: np.ndarray,
        ids: Ids,
        among: np.ndarray | None = None,
        *,
        fraction: float = 0,
        n: int = 0,
        highest: bool = False,
    ) -> np.ndarray:
        """Mark the n, or floor(fraction x N), rows of smallest (or largest) value, ties by the smaller id."""
        if fraction <= 0 and n <= 0:
            return np.zeros(len(value), bool)
        value = np.asarray(value, np.float32)
        if highest:
            value = np.where(np.isnan(value), -np.inf, -value).astype(np.float32)
        if among is None or among.all():
            among = None
        n_rows, n_among = self._comm.sum(
            np.array([len(value), len(value) if among is None else np.count_nonzero(among)])
        ).tolist()
        k = min(n or int(np.floor(fraction * n_rows)), n_among)
        if k <= 0:
            return np.zeros(len(value), bool)
        found = find_threshold(value, among, k, self._comm)
        if found.k == found.n_ties:
            marked = is_at_most(value, found.value)
            return marked if among is None else np.logical_and(marked, among, out=marked)
        marked, tied = is_below(value, found.value), is_equal(value, found.value)
        if among is not None:
            marked &= among
            tied &= among
        marked[self._first_ties(np.flatnonzero(tied), ids, found)] = True
        return marked

    def _first_ties(self, tied: np.ndarray, ids: Ids, found: Threshold) -> np.ndarray:
        """Return those of this rank's tied rows that are among the k of smallest id of all ranks."""
        if isinstance(ids, range):
            n_before = int(self._comm.exscan(np.array([len(tied)]))[0])
            return tied[: max(0, found.k - n_before)]
        tied_ids = ids(tied) if callable(ids) else ids_at(ids, tied)
        return tied[tied_ids <= self._kth_id(tied_ids, found)]

    def _largest(self, ids: np.ndarray) -> int:
        """Return the largest id of all ranks, 0 if there is none. One allreduce."""
        return int(self._comm.max(np.array([ids.max(initial=0)]))[0])

    def _kth_id(self, ids: np.ndarray, found: Threshold) -> int:
        """Return the k-th smallest id of the tied rows of all ranks."""
        largest = self._largest(ids)
        if found.k == found.n_ties:
            return largest
        return select(ids.view(np.uint64), max(1, largest.bit_length()), found.k, self._comm)[0]
