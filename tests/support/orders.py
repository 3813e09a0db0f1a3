"""An epoch dealt to ranks that are threads."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kakurenbo_hpc.core.batch import MicroBatch
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.order.deal import EpochSchedule, deal

EPOCH = Epoch(0, 1, seed=0)


class Entry(NamedTuple):
    position: int
    id: int
    copy: int
    weight: float


def dealt(times, cuts=None, global_batch=4, accumulate=1, weight=None, epoch=EPOCH) -> list[EpochSchedule]:
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


def entries(micro_batches: list[MicroBatch]) -> list[Entry]:
    """Return what these turns train, in order; fillers are no entries."""
    columns = [zip(t.position, t.id, t.copy, t.weight, strict=True) for t in micro_batches if t.counts]
    return sorted(Entry(int(p), int(i), int(c), float(w)) for column in columns for p, i, c, w in column)


def everything(ranks: list[EpochSchedule]) -> list[Entry]:
    return entries([micro_batch for micro_batches in ranks for micro_batch in micro_batches])


def batches(ranks: list[EpochSchedule]) -> list[list[Entry]]:
    """Return each global batch, in order."""
    return [
        entries([t for micro_batches in ranks for t in micro_batches if t.step == step])
        for step in range(ranks[0].steps)
    ]


def order(ranks: list[EpochSchedule]) -> list[tuple[int, int]]:
    """Return (id, copy) of all that is trained, in the epoch's order."""
    return [(entry.id, entry.copy) for entry in everything(ranks)]
