"""An epoch dealt to ranks that are threads, and what came of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kakurenbo_hpc.core.batch import Turn
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.order.deal import Turns, deal

EPOCH = Epoch(0, 1, seed=0)


class Entry(NamedTuple):
    position: int
    id: int
    copy: int
    weight: float


def dealt(times, cuts=None, global_batch=4, accumulate=1, weight=None, epoch=EPOCH) -> list[Turns]:
    """Return each rank's turns over ids 0, 1, ..., rank r being home of those from cuts[r] to cuts[r + 1]."""
    times, ids = np.asarray(times), np.arange(len(times))
    cuts = cuts or [0, len(times)]

    def work(comm):
        rows = slice(cuts[comm.rank], cuts[comm.rank + 1])
        return deal(
            ids[rows],
            times[rows],
            epoch,
            comm,
            global_batch,
            accumulate,
            None if weight is None else weight[rows],
        )

    return run_in_threads(len(cuts) - 1, work)


def entries(turns: list[Turn]) -> list[Entry]:
    """Return what these turns train, in order; fillers are no entries."""
    columns = [zip(t.position, t.id, t.copy, t.weight, strict=True) for t in turns if t.counts]
    return sorted(Entry(int(p), int(i), int(c), float(w)) for column in columns for p, i, c, w in column)


def everything(ranks: list[Turns]) -> list[Entry]:
    return entries([turn for turns in ranks for turn in turns])


def batches(ranks: list[Turns]) -> list[list[Entry]]:
    """Return each global batch, in order."""
    return [
        entries([t for turns in ranks for t in turns if t.step == step]) for step in range(ranks[0].steps)
    ]


def order(ranks: list[Turns]) -> list[tuple[int, int]]:
    """Return (id, copy) of all that is trained, in the epoch's order."""
    return [(entry.id, entry.copy) for entry in everything(ranks)]
