"""Poisson sampling: the first n arrivals of independent Poisson processes are n draws with replacement.

Each sample has a process of its own, whose rate is its weight. The order of arrivals does not depend on the
scale of the weights, and each rank generates its own samples' arrivals, so no rank needs the sum of all
weights.
"""

from __future__ import annotations

import numpy as np

from ..core.rng import Stream

_AT_ONCE = 1 << 16  # arrivals generated together


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
        row (k,) int64, number (k,) int64 of the arrival in its process, and time (k,) float32, in units of
        a power of two near the horizon, so that it fits into float32 whatever the scale of the weights is.
    """
    unit = int(np.frexp(horizon)[1])
    active = np.flatnonzero(weight > 0)
    time = np.zeros(len(active))
    first = 0
    rows, numbers, times = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    while len(active):
        # Few processes left means fast ones: generate many arrivals of each at once.
        number = np.arange(first, first + max(1, _AT_ONCE // len(active)))
        u = 1 - rng.uniform(np.repeat(ids[active], len(number)), purpose, np.tile(number, len(active)))
        gaps = (-np.log(u)).reshape(len(active), -1) / weight[active, None].astype(np.float64)
        at = time[:, None] + np.cumsum(gaps, axis=1)
        early, column = np.nonzero(at <= horizon)
        rows.append(active[early])
        numbers.append(number[column])
        times.append(np.ldexp(at[early, column], -unit).astype(np.float32))
        unfinished = at[:, -1] <= horizon
        active, time, first = active[unfinished], at[unfinished, -1], first + len(number)
    return np.concatenate(rows), np.concatenate(numbers), np.concatenate(times)
