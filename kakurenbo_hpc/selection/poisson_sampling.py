"""Poisson clocks, one a sample: their first n ticks are n draws with replacement in proportion to the clocks' rates."""

from __future__ import annotations

import numpy as np

from ..core.plan import Epoch

_AT_ONCE = 1 << 16  # ticks looked at together


def ticks(
    weight: np.ndarray, ids: np.ndarray, horizon: float, epoch: Epoch, purpose: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (row, tick, time) of all ticks up to the horizon: clock i's gaps are -log(u) / weight[i].

    time is in units of a power of two near the horizon, so that it fits into float32 whatever the weights' scale is.
    """
    unit = int(np.frexp(horizon)[1])
    active = np.flatnonzero(weight > 0)
    time = np.zeros(len(active))
    first = 0
    rows, which_ticks, times = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    while len(active):
        # Few clocks left means fast ones: look at many ticks of each at once.
        tick = np.arange(first, first + max(1, _AT_ONCE // len(active)))
        u = 1 - epoch.uniform(np.repeat(ids[active], len(tick)), purpose, np.tile(tick, len(active)))
        gaps = (-np.log(u)).reshape(len(active), -1) / weight[active, None].astype(np.float64)
        at = time[:, None] + np.cumsum(gaps, axis=1)
        early, which = np.nonzero(at <= horizon)
        rows.append(active[early])
        which_ticks.append(tick[which])
        times.append(np.ldexp(at[early, which], -unit).astype(np.float32))
        going = at[:, -1] <= horizon
        active, time, first = active[going], at[going, -1], first + len(tick)
    return np.concatenate(rows), np.concatenate(which_ticks), np.concatenate(times)
