"""Distributed selection of the k-th smallest value: bracketed by a sample, confirmed by counts, then radix.

Instead of sorting, each row is compared with both ends of the bracket: rows below it are counted, and few lie
inside. No message grows with the data set; all together they are less than 64 KB.
Ties are counted here; ``global_stats.py`` breaks them, by id.

Source: Floyd and Rivest 1975, "Expected time bounds for selection"; radix selection: Knuth vol. 3, 5.2.5.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..distributed.comm import Comm
from .float_keys import CHUNK, INF_KEY, from_keys, to_keys

_SAMPLE = 4096  # rows of all ranks together that bracket the threshold: 16 KB
_DEVIATIONS = 3.0  # standard deviations of the sample's quantile on each side; beyond, about 1 in 370 misses
_DIGIT = 10  # bits decided by one allreduce: 1024 counts, 8 KB
_LOWEST, _HIGHEST = int(~INF_KEY), int(INF_KEY)  # the keys of -inf and +inf
_EXCLUDED = 0xFFFFFFFF  # above the keys of all values: of a row that is not asked about


class Threshold(NamedTuple):
    """The k-th smallest value, k among the rows that equal it, and the number of these."""

    value: np.float32
    k: int
    n_ties: int


def find_threshold(value: np.ndarray, among: np.ndarray | None, k: int, comm: Comm) -> Threshold:
    """Find the k-th smallest value of all ranks together; the same on every rank.

    Args:
        value: (S,) float32, this rank's rows; NaN counts as +inf, and -0 as 0.
        among: (S,) bool, the rows that are asked about; None for all.
        k: counted from 1, at most the number of these rows of all ranks.
        comm: the ranks.
    """
    for low, high in _brackets(*_sample(value, among, comm), k):
        below, within = is_below(value, from_key(low)), is_at_most(value, from_key(high))
        within &= ~below
        if among is not None:
            below &= among
            within &= among
        n_below, n_within = comm.sum(np.array([np.count_nonzero(below), np.count_nonzero(within)])).tolist()
        if n_below < k <= n_below + n_within:
            break
    if low == high:
        return Threshold(from_key(low), k - n_below, n_within)
    offsets = to_keys(value[within]) - np.uint32(low)
    offset, k, n_ties = select(offsets, (high - low).bit_length(), k - n_below, comm)
    return Threshold(from_key(low + offset), k, n_ties)


def is_below(value: np.ndarray, threshold: np.float32) -> np.ndarray:
    """Return (S,) bool: which values are smaller; NaN counts as +inf."""
    return value < threshold


def is_at_most(value: np.ndarray, threshold: np.float32) -> np.ndarray:
    """Return (S,) bool: which values are not larger; NaN counts as +inf."""
    return value <= threshold if threshold < np.inf else np.ones(len(value), bool)


def is_equal(value: np.ndarray, threshold: np.float32) -> np.ndarray:
    """Return (S,) bool: which values are equal; NaN counts as +inf."""
    return value == threshold if threshold < np.inf else ~(value < np.inf)


def from_key(key: int) -> np.float32:
    """Return the value of a key."""
    return from_keys(np.array([key], np.uint32))[0]


def _sample(value: np.ndarray, among: np.ndarray | None, comm: Comm) -> tuple[np.ndarray, int]:
    """Return the sorted keys of some rows, at equal distances over all ranks, and the number of all rows."""
    n_before = int(comm.exscan(np.array([len(value)]))[0])
    n = int(comm.sum(np.array([len(value)]))[0])
    n_sample = min(n, _SAMPLE)
    # Key j is that of row j * n // n_sample of all ranks' rows; this rank has those from first to last.
    first, last = (-(-row * n_sample // n) for row in (n_before, n_before + len(value)))
    rows = np.arange(first, last) * n // n_sample - n_before
    keys = np.zeros(n_sample, np.uint32)
    keys[first:last] = to_keys(value[rows])
    if among is not None:
        keys[first:last][~among[rows]] = _EXCLUDED
    return np.sort(comm.sum(keys)), n


def _brackets(sample: np.ndarray, n: int, k: int) -> list[tuple[int, int]]:
    """Return keys, both inclusive, between which the k-th of n may lie: first guesses, at last all keys."""
    position = k * len(sample) / n
    slack = _DEVIATIONS * np.sqrt(position * (1 - k / n)) + 1
    at = np.round([position - slack, position, position + slack]).astype(int) - 1
    low, middle, high = np.minimum(sample[np.clip(at, 0, len(sample) - 1)], INF_KEY).tolist()
    guess = (low if at[0] >= 0 else _LOWEST, high if at[2] < len(sample) else _HIGHEST)
    # A value that the sample has twice is that of many rows, which need no second look.
    ties = [(middle, middle)] if np.count_nonzero(sample == middle) > 1 else []
    return [*ties, guess, (_LOWEST, _HIGHEST)]


def select(keys: np.ndarray, n_bits: int, k: int, comm: Comm) -> tuple[int, int, int]:
    """Find the k-th smallest key of all ranks by radix selection, digit after digit from the top.

    Args:
        keys: (S,) unsigned integers below 2**n_bits.
        n_bits: width of the keys.
        k: counted from 1, at most the number of keys of all ranks.
        comm: the ranks.

    Returns:
        The key, k among the keys equal to it, and their number.
    """
    prefix, shift = 0, n_bits
    while True:
        width = min(_DIGIT, shift)
        shift -= width
        counts = comm.sum(_count_digits(keys, shift))
        below = np.cumsum(counts)
        digit = int(np.searchsorted(below, k))
        k -= int(below[digit] - counts[digit])
        prefix = prefix << width | digit
        if not shift:
            return prefix, k, int(counts[digit])
        keys = _filter_by_prefix(prefix, keys, shift)


def _count_digits(keys: np.ndarray, shift: int) -> np.ndarray:
    """Return this rank's histogram of the digit that begins at bit ``shift``."""
    counts = np.zeros(1 << _DIGIT, np.int64)
    for start in range(0, len(keys), CHUNK):
        digits = keys[start : start + CHUNK] >> keys.dtype.type(shift)
        digits &= keys.dtype.type((1 << _DIGIT) - 1)
        counts += np.bincount(digits.astype(np.intp), minlength=1 << _DIGIT)
    return counts


def _filter_by_prefix(prefix: int, keys: np.ndarray, shift: int) -> np.ndarray:
    """Return the keys whose bits from ``shift`` up are the prefix."""
    parts = []
    for start in range(0, len(keys), CHUNK):
        chunk = keys[start : start + CHUNK]
        parts.append(chunk[chunk >> keys.dtype.type(shift) == keys.dtype.type(prefix)])
    return np.concatenate(parts) if parts else keys
