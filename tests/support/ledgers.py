"""Hypothesis strategies: awkward float32 values, ledgers, and splits over ranks."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import strategies as st

from kakurenbo_hpc.core.ledger import Ledger
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.selection.global_stats import GlobalStats

_LIMITS = np.finfo(np.float32)
AWKWARD = [0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, float(_LIMITS.max), float(_LIMITS.min)]
AWKWARD += [float(_LIMITS.smallest_subnormal), -float(_LIMITS.smallest_subnormal), float(_LIMITS.tiny)]

epochs = st.builds(Epoch, number=st.integers(0, 5), total=st.just(6), seed=st.integers(0, 3))


def splits(n: int) -> st.SearchStrategy[list[int]]:
    """Cuts of n rows over 1 to 8 ranks, some of them empty: rank r has the rows from [r] to [r + 1]."""
    return st.lists(st.integers(0, n), max_size=7).map(lambda cuts: [0, *sorted(cuts), n])


def on_ranks(cuts: list[int], work) -> list:
    """Return, for each rank, work(everyone, its slice of the rows)."""
    return run_in_threads(
        len(cuts) - 1, lambda comm: work(GlobalStats(comm), slice(cuts[comm.rank], cuts[comm.rank + 1]))
    )


def picked(draw, pool: list, n: int, dtype) -> np.ndarray:
    """(n,) of the pool, or (n, J) by the dtype, each drawn; as bytes, which hypothesis draws ten times as
    fast as numbers.
    """
    dtype = np.dtype(dtype)
    size = n * int(np.prod(dtype.shape))
    numbers = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8)
    return np.array(pool, dtype.base)[numbers % len(pool)].reshape(n, *dtype.shape)


@st.composite
def values(draw, n: int, finite: bool = False) -> np.ndarray:
    """(n,) float32 with many ties."""
    pool = st.one_of(st.sampled_from(AWKWARD), st.floats(0, 8, width=32), st.floats(width=32))
    if finite:
        pool = pool.filter(np.isfinite)
    return picked(draw, draw(st.lists(pool, min_size=1, max_size=8)), n, np.float32)


@st.composite
def unique_ids(draw, n: int) -> np.ndarray:
    """(n,) int64 in any order, near together or far apart, some beyond 32 bits."""
    first, stride = (
        draw(st.sampled_from([0, 5, 2**31 - 3, 2**33])),
        draw(st.sampled_from([1, 2**11, 2**25 + 1])),
    )
    return first + stride * np.array(draw(st.permutations(range(n))), np.int64)


@st.composite
def masks(draw, n: int) -> np.ndarray:
    """(n,) bool: everything, or anything."""
    return np.ones(n, bool) if draw(st.booleans()) else picked(draw, [False, True], n, bool)


@st.composite
def ledgers(draw, columns=None, finite: bool = False) -> Ledger:
    """All rows of 1 to 60 samples as one ledger, unseen rows among them; columns are filled as a run might
    fill them.
    """
    n = draw(st.integers(1, 60))
    seen = draw(masks(n))

    def of_seen(column, first):
        return np.where(seen.reshape(-1, *[1] * (column.ndim - 1)), column, np.asarray(first, column.dtype))

    return Ledger(
        n_total=n,
        start=0,
        loss=of_seen(abs(draw(values(n, finite))), np.inf),
        correct=of_seen(draw(masks(n)), False),
        confidence=of_seen(picked(draw, [0.0, 0.2, 0.69, 0.7, 0.71, 0.9, 1.0, np.nan], n, np.float32), 0),
        seen_epoch=of_seen(picked(draw, [0, 1, 2], n, np.int32), -1),
        extra={
            name: of_seen(picked(draw, _plausible(name, dtype), n, np.dtype(dtype)), first)
            for name, (dtype, first) in (columns or {}).items()
        },
    )


def _plausible(name: str, dtype) -> list:
    if name == "probability":
        return [0.0, 1e-6, 0.1, 0.5, 0.9, 1.0]
    return {"b": [False, True], "f": [0.0, 0.1, 0.5, 1.0, 1.4]}.get(np.dtype(dtype).base.kind, [0, 1, 2, 3])


def part(ledger: Ledger, rows: slice) -> Ledger:
    """Return the ledger of the rank that is home of these rows."""
    columns = {name: getattr(ledger, name)[rows] for name in ("loss", "correct", "confidence", "seen_epoch")}
    extra = {name: column[rows] for name, column in ledger.extra.items()}
    return dataclasses.replace(ledger, start=ledger.start + rows.start, **columns, extra=extra)
