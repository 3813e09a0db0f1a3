"""Poisson sampling: the first n arrivals of independent Poisson processes are n draws with replacement.

Each sample has a process of its own, whose rate is its weight. The order of arrivals does not depend on the
scale of the weights, and each rank generates its own samples' arrivals, so no rank needs the sum of all
weights.
"""

from __future__ import annotations

import numpy as np

from ..core.rng import Stream, of_copy, to_uniform

_AT_ONCE = 1 << 15  # arrivals generated together, in arrays that stay in the cache


def generate_arrivals(
    weight: np.ndarray, ids: np.ndarray, horizon: float, rng: Stream, purpose: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all arrivals up to the horizon; the gaps of process i are -log(u) / weight[i].

    Args:
        weight: (S,) floats, the rates.
        ids: (S,) int64.
        horizon: the latest time.
        rng: the stream of the draws, keyed by id and number of the arrival.
        purpose: of the draws.

    Returns:
        row (k,) int64, number (k,) int32 of the arrival in its process, and time (k,) float32, in units of
        a power of two near the horizon, so that it fits into float32 whatever the scale of the weights is.
    """
    scale = np.ldexp(1.0, -int(np.frexp(horizon)[1]))
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))]
    for start in range(0, len(weight), _AT_ONCE):
        active = np.flatnonzero(weight[start : start + _AT_ONCE] > 0)
        active += start
        drawn = rng.bits(
            ids.take(active), purpose
        )  # of first arrivals, from which those of later ones follow
        minus_rate, latest, first = -weight.take(active).astype(np.float64), np.zeros(len(active)), 0
        while len(active):
            # Few processes left means fast ones: generate many arrivals of each at once.
            n_each = max(1, _AT_ONCE // 16 // len(active))
            if n_each == 1:
                at = _gaps(of_copy(drawn, first) if first else drawn, minus_rate)
                at += latest
                early = np.flatnonzero(at <= horizon)  # take: twice as fast as an index
                active, minus_rate, latest = active.take(early), minus_rate.take(early), at.take(early)
                drawn = drawn.take(early)
                parts.append(
                    (active, np.full(len(early), first, np.int32), (latest * scale).astype(np.float32))
                )
                first += 1
                continue
            row = np.tile(active, n_each)
            number = np.repeat(np.arange(first, first + n_each, dtype=np.int32), len(active))
            at = _gaps(of_copy(np.tile(drawn, n_each), number).reshape(n_each, -1), minus_rate)
            at[0] += latest
            at = np.cumsum(at, axis=0)  # one after the other, as above
            early = np.flatnonzero(at <= horizon)
            parts.append((row[early], number[early], (at.ravel()[early] * scale).astype(np.float32)))
            unfinished = np.flatnonzero(at[-1] <= horizon)
            active, minus_rate, latest = active[unfinished], minus_rate[unfinished], at[-1, unfinished]
            drawn = drawn[unfinished]
            first += n_each
    row, number, time = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return row, number, time


def _gaps(drawn: np.ndarray, minus_rate: np.ndarray) -> np.ndarray:
    """Return log(1 - u) / -rate, float64, of the shape of the draws."""
    gap = to_uniform(drawn)
    np.subtract(1, gap, out=gap)
    np.log(gap, out=gap)
    gap /= minus_rate
    return gap
