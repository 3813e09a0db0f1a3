"""Global statistics over all ranks' samples: thresholds (k-th smallest, ties by id), counts, exact sums.

Methods ask these questions through ``GlobalStats``, usually as the variable ``everyone``. No answer depends
on how the rows are split over ranks, and no message is as long as the data set. All ranks call together,
each with its own rows.

Thresholds and ties: ``smallest``, ``largest`` and ``first`` mark an exact number of rows. ``_mark`` orders
them by (value, id), NaN as +inf, so of rows whose value equals the threshold those of smaller id are
marked, on any number of ranks. ``_descend`` finds the threshold by radix selection: histograms of 11 bits
of the key at a time, added over all ranks; where ties straddle the threshold, the same search goes on over
their ids.
"""

from __future__ import annotations

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
    extract_mantissas,
    from_keys,
    sum_mantissas,
    to_keys,
)
from .poisson_sampling import generate_arrivals
from .sorting import find_positions

_DIGIT = 11  # bits decided by one allreduce: 2048 counts, 16 KB
_BINS = 1 << _DIGIT
_EXCLUDED = np.uint32(
    0xFFFFFFFF
)  # the key of a row that may not be marked: above all others, alone in the last bin


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

        Three allreduces of at most 2048 int64, up to four more where ties straddle k and ids need 44 bits.
        Source: most-significant-digit radix selection, Knuth vol. 3, 5.2.5.

        Args:
            value: (S,) float32, this rank's rows.
            k: counted from 1, at most the number of rows of all ranks.
            ids: (S,) int64, not negative and unique over all ranks.

        Returns:
            The same pair on every rank.

        Raises:
            ValueError: k is out of range, on every rank alike.
        """
        keys = to_keys(value)
        first = self._counts(keys, 32 - _DIGIT)
        if not 1 <= k <= first.sum():
            raise ValueError(f"k is {k}, but there are {first.sum()} rows")
        key, k, n_ties = self._descend(keys, 32, k, first)
        return float(from_keys(np.array([key], np.uint32))[0]), self._kth_id(
            ids[keys == np.uint32(key)], k, n_ties
        )

    def smallest(
        self, value: np.ndarray, fraction: float, ids: np.ndarray | range, among: np.ndarray | None = None
    ) -> np.ndarray:
        """Mark the floor(fraction x N) rows of smallest (value, id), N the rows of all ranks; NaN is +inf.

        Args:
            value: (S,) float32.
            fraction: of all rows, 0 to 1.
            ids: (S,) int64, unique over all ranks, or a range.
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

    def draw(self, weight: np.ndarray, n: int, ids: np.ndarray, rng: Stream, purpose: str) -> np.ndarray:
        """Draw exactly n times with replacement, in proportion to weight over all ranks: a multinomial draw.

        Every sample has a Poisson process of rate ``weight``; the n earliest arrivals of all processes are
        the draws, ties by (id, number of the arrival). Their order does not depend on the scale of the
        weights, whose sum only says how far ahead to generate.

        Args:
            weight: (S,) float32, finite and not negative, not all of them 0 over all ranks.
            n: draws of all ranks together.
            ids: (S,) int64, below 2**32.
            rng: the stream of the draws.
            purpose: of the draws.

        Returns:
            (S,) int64, how often each row was drawn.
        """
        total = self.sum(weight).value
        horizon = (n + 6 * np.sqrt(n) + 6) / total
        while True:
            row, number, time = generate_arrivals(weight, ids, horizon, rng, purpose)
            if self.count(np.ones(len(row), bool))[0] >= n:
                break
            horizon *= 2  # about once in a billion epochs
        earliest = self._mark(time, (ids[row] << 31) | number, n=n)
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

    def max(self, value: np.ndarray) -> float:
        """Return the largest finite value of all ranks, -inf if there is none. One allreduce."""
        value = np.asarray(value, None if np.asarray(value).dtype.kind == "f" else np.float64)
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
        raw, label = value[finite].view(np.uint32), label[finite].astype(np.int64)
        exponent = (raw >> np.uint32(23)).astype(np.int64) & 255
        # Values of one kind have few different exponents: n_classes numbers are sent for each in their range.
        ends = [-int(exponent.min()), int(exponent.max())] if len(raw) else [-255, 0]
        low, high = (int(end) for end in self._comm.max(np.array(ends)) * [-1, 1])
        width = max(1, high - low + 1)
        sums = np.zeros(n_classes * width, np.int64)
        for start in range(0, len(raw), CHUNK):
            part = slice(start, start + CHUNK)
            mantissa = np.copysign(extract_mantissas(raw[part]), raw[part].view(np.float32))
            sums += np.bincount(label[part] * width + exponent[part] - low, mantissa, len(sums)).astype(
                np.int64
            )
        return np.array(
            [combine_exponents(row, low) for row in self._comm.sum(sums).reshape(n_classes, width)]
        )

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
        counts = self._counts(keys, 32 - _DIGIT)
        (used,) = np.nonzero(counts)
        if not len(used):
            return Histogram(np.zeros(0, np.float32), np.zeros(0, np.int64))
        bins = np.arange(used[0], used[-1] + 2, dtype=np.uint64) << np.uint64(32 - _DIGIT)
        return Histogram(
            from_keys(np.minimum(bins, int(INF_KEY)).astype(np.uint32)), counts[used[0] : used[-1] + 1]
        )

    def concatenate(self, value: np.ndarray) -> np.ndarray:
        """Return all ranks' values, concatenated, on every rank; for arrays of a batch, not of a ledger."""
        return np.concatenate(self._comm.gather(value))

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
        ids: np.ndarray | range,
        among: np.ndarray | None = None,
        *,
        fraction: float = 0,
        n: int = 0,
        highest: bool = False,
    ) -> np.ndarray:
        """Mark the n, or floor(fraction x N), rows of smallest (or largest) value, ties by the smaller id."""
        if fraction <= 0 and n <= 0:
            return np.zeros(len(value), bool)
        keys = to_keys(value)
        if highest:
            np.invert(keys, out=keys)
        if among is not None and not among.all():
            np.copyto(keys, _EXCLUDED, where=~among)
        first = self._counts(keys, 32 - _DIGIT)
        k = min(n or int(np.floor(fraction * int(first.sum()))), int(first[:-1].sum()))
        if k <= 0:
            return np.zeros(len(keys), bool)
        key, k, n_ties = self._descend(keys, 32, k, first)
        if k == n_ties:
            return keys <= np.uint32(key)
        ties = np.flatnonzero(keys == np.uint32(key))
        tied = ids_at(ids, ties)
        marked = keys < np.uint32(key)
        marked[ties] = tied <= self._kth_id(tied, k, n_ties)
        return marked

    def _kth_id(self, ids: np.ndarray, k: int, n: int) -> int:
        """Return the k-th smallest of the n ids of all ranks."""
        largest = int(self._comm.max(np.array([ids.max(initial=0)]))[0])
        if k == n:
            return largest
        return self._descend(ids.view(np.uint64), max(1, largest.bit_length()), k)[0]

    def _descend(
        self, keys: np.ndarray, n_bits: int, k: int, first: np.ndarray | None = None
    ) -> tuple[int, int, int]:
        """Find the k-th smallest key of all ranks, digit after digit from the top.

        Args:
            keys: (S,) unsigned integers of n_bits bits.
            n_bits: width of the keys.
            k: counted from 1.
            first: global counts of the top digit, if known.

        Returns:
            The key, k among the keys equal to it, and their number.
        """
        prefix, shift, remaining = 0, n_bits, keys  # this rank's keys that begin with the prefix
        while True:
            width = min(_DIGIT, shift)
            shift -= width
            counts = self._counts(remaining, shift) if first is None else first
            below = np.cumsum(counts)
            digit = int(np.searchsorted(below, k))
            k -= int(below[digit] - counts[digit])
            prefix, first = prefix << width | digit, None
            if not shift:
                return prefix, k, int(counts[digit])
            remaining = _filter_by_prefix(prefix, remaining, shift)

    def _counts(self, keys: np.ndarray, shift: int) -> np.ndarray:
        """Return the global histogram of the digit of all keys that begins at bit ``shift``."""
        counts = np.zeros(_BINS, np.int64)
        for start in range(0, len(keys), CHUNK):
            digits = keys[start : start + CHUNK] >> keys.dtype.type(shift)
            digits &= keys.dtype.type(_BINS - 1)
            counts += np.bincount(digits.astype(np.intp), minlength=_BINS)
        return self._comm.sum(counts)


def _filter_by_prefix(prefix: int, keys: np.ndarray, shift: int) -> np.ndarray:
    """Return the keys whose bits from ``shift`` up are the prefix."""
    parts = []
    for start in range(0, len(keys), CHUNK):
        chunk = keys[start : start + CHUNK]
        parts.append(chunk[chunk >> keys.dtype.type(shift) == keys.dtype.type(prefix)])
    return np.concatenate(parts) if parts else keys
