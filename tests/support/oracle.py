"""Serial reference implementation of KAKURENBO and the exact sums, on whole arrays, for tests.

Written from the paper, not from the code. One process, one sort, Python's own exact sum.
"""

import math
from types import SimpleNamespace

import numpy as np


def in_order(value, ids):
    """Return the rows from the smallest (value, id) to the largest; NaN counts as +inf."""
    return np.lexsort((ids, nan_as_inf(value)))


def nan_as_inf(value):
    return np.where(np.isnan(value), np.inf, value)


def kth_smallest(value, k, ids):
    row = in_order(value, ids)[k - 1]
    return nan_as_inf(value)[row], ids[row]


def smallest(value, fraction, ids, among=None):
    """Mark the floor(fraction x N) rows of smallest (value, id) among those that may be marked."""
    return _first(in_order(value, ids), math.floor(fraction * len(value)), among)


def largest(value, fraction, ids, among=None):
    """Mark the floor(fraction x N) rows of largest value, of equal values those of smaller id."""
    return _first(in_order(-nan_as_inf(value), ids), math.floor(fraction * len(value)), among)


def _first(order, n, among):
    allowed = [row for row in order if among is None or among[row]]
    marked = np.zeros(len(order), bool)
    marked[allowed[:n]] = True
    return marked


def rank(value, ids):
    place = np.empty(len(value), np.int64)
    place[in_order(value, ids)] = np.arange(len(value))
    return place


def percentile(value):
    """The share of all rows with a smaller value."""
    value = nan_as_inf(value)
    return np.array([np.count_nonzero(value < mine) / len(value) for mine in value])


def exact_sum(value):
    """The sum of the finite values, rounded once."""
    return math.fsum(value[np.isfinite(value)].tolist())


def n_finite(value):
    return int(np.isfinite(value).sum())


def class_sum(value, label, n_classes):
    return np.array([exact_sum(value[label == c]) for c in range(n_classes)])


def random_quota(fraction, n):
    return math.floor(fraction * n)


def kakurenbo(options, epoch, n_epochs, loss, correct, confidence, seen):
    """The plan of one epoch, steps 1 to 5 of the method's docstring. options: its options in a job, none left
    out.
    """
    n, ids, o = len(loss), np.arange(len(loss)), SimpleNamespace(**options)

    factor = 1.0
    if o.reduce_fraction:
        starts = o.fraction_epochs or [tenths * n_epochs // 10 for tenths in (0, 3, 6, 8)]
        for start, this in zip(starts, o.fraction_decay):
            if epoch >= start:
                factor = this
    ceiling = o.max_fraction * factor

    candidates = smallest(loss, ceiling, ids, among=seen & ~np.isnan(loss))
    hidden = candidates.copy()
    if o.move_back:
        hidden &= correct & (confidence >= np.float32(o.confidence))  # compared in the ledger's own precision
    left_out = hidden | largest(loss, o.drop_top, ids, among=seen)

    share = left_out.sum() / n if o.lr_fraction == "actual" else ceiling
    refreshes = epoch % o.refresh_every == 0 and epoch != n_epochs - 1
    return SimpleNamespace(
        train=~left_out,
        refresh=left_out if refreshes else None,
        lr_scale=1 / (1 - share) if o.scale_lr else 1.0,
        max_fraction=ceiling,
        n_candidates=candidates.sum(),
        n_moved_back=candidates.sum() - hidden.sum(),
    )
