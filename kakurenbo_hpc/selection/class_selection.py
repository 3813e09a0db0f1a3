"""Selection within classes, over all ranks: the first rows of every class, and how many of each."""

from __future__ import annotations

import numpy as np

from ..core.ledger import ids_at
from .float_keys import to_keys
from .global_stats import GlobalStats

_DIGIT = 8  # bits decided by one allreduce of 256 counts a class


def first_of_class(
    value: np.ndarray,
    n_of_class: np.ndarray,
    label: np.ndarray,
    ids: np.ndarray | range,
    everyone: GlobalStats,
) -> np.ndarray:
    """Mark, in each class c, the n_of_class[c] rows of smallest (value, id), or all if they are fewer.

    Radix selection in all classes at once: four allreduces of 256 int64 a class, and up to six more where
    ties straddle a threshold.

    Args:
        value: (S,) float32; NaN counts as +inf.
        n_of_class: (C,) int, the same on all ranks.
        label: (S,) int, 0 to C - 1.
        ids: (S,) int64, unique over all ranks, or a range.
        everyone: the rows of all ranks.

    Returns:
        (S,) bool.
    """
    n_of_class, marked = np.asarray(n_of_class, np.int64), np.zeros(len(value), bool)
    rows = np.flatnonzero((n_of_class > 0).take(label))
    rows, k = _descend(to_keys(value), 32, rows, n_of_class, label, marked, everyone)
    n_ties = everyone.add(np.bincount(label[rows], minlength=len(k)))
    whole = (k >= n_ties)[label[rows]]
    marked[rows[whole]] = True
    if np.all(k >= n_ties):
        return marked
    rows = rows[~whole & (k[label[rows]] > 0)]
    tied = np.zeros(len(value), np.uint64)
    tied[rows] = ids_at(ids, rows)
    n_bits = int(max(1, everyone.max(tied[rows].astype(np.int64)))).bit_length()
    rows, k = _descend(tied, n_bits, rows, k, label, marked, everyone)
    marked[rows] = True  # ids are unique: what is left is the last of each class
    return marked


def _descend(
    keys: np.ndarray,
    n_bits: int,
    rows: np.ndarray,
    k: np.ndarray,
    label: np.ndarray,
    marked: np.ndarray,
    everyone: GlobalStats,
) -> tuple[np.ndarray, np.ndarray]:
    """Mark the rows with a key below the k-th smallest of their class; return those with that key, and k.

    Args:
        keys: (S,) unsigned integers of n_bits bits.
        n_bits: width of the keys.
        rows: (r,) the only rows that count.
        k: (C,) counted from 1; in a class of fewer rows all are marked or returned.
        label: (S,) class of each row.
        marked: (S,) bool, changed in place.
        everyone: the rows of all ranks.
    """
    shift, n_classes = n_bits, len(k)
    keys, label = keys.take(rows), label.take(rows).astype(np.int64)  # take: twice as fast as an index
    while shift:
        width = min(_DIGIT, shift)
        shift -= width
        digit = (keys >> keys.dtype.type(shift)).astype(np.int64)
        digit &= (1 << width) - 1
        cell = label << width
        cell += digit
        counts = everyone.add(np.bincount(cell, minlength=n_classes << width)).reshape(n_classes, -1)
        below = np.cumsum(counts, axis=1)
        found = np.minimum((below < k[:, None]).sum(axis=1), (1 << width) - 1)
        k = k - np.take_along_axis(below - counts, found[:, None], axis=1)[:, 0]
        digit -= found.take(label)
        marked[rows.compress(digit < 0)] = True
        left = np.flatnonzero(digit == 0)
        rows, keys, label = rows.take(left), keys.take(left), label.take(left)
    return rows, k


def allocate(n: int, share: np.ndarray, n_of_class: np.ndarray) -> np.ndarray:
    """Return (C,) int64 that add up to n, in proportion to ``share``, none above n_of_class.

    A class that its share would exceed gives all its rows, and the others share the rest again. Whole numbers
    by the largest remainder, ties to the smaller class. Where all shares left are 0, the sizes take their
    place.

    Args:
        n: at most the sum of n_of_class.
        share: (C,) float64, not negative.
        n_of_class: (C,) int.
    """
    size = np.asarray(n_of_class, np.float64)
    given, is_open = np.zeros(len(size)), size > 0
    while is_open.any():
        part = np.where(is_open, share, 0)
        part = part if part.sum() > 0 else np.where(is_open, size, 0)
        left = n - given[~is_open].sum()
        given = np.where(is_open, left * part / part.sum(), given)
        full = is_open & (given > size)
        if not full.any():
            break
        given, is_open = np.where(full, size, given), is_open & ~full
    whole = np.floor(given).astype(np.int64)
    by_remainder = np.argsort(-(given - whole), kind="stable")
    whole[by_remainder[: n - int(whole.sum())]] += 1
    return whole
