"""Order and partition of an epoch: a plan's entries in global order, cut into each rank's batches.

The order is a pure function of (seed, epoch, id, copy): all entries are permuted by a hash and the hidden
ones are dropped. So hiding never disturbs the order of the rest, and global batch b is the same set of ids
on any number of ranks. Ranks sort by buckets of the hash; each holds O(n / P) entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core.batch import MicroBatch
from ..core.plan import Epoch
from ..core.rng import key
from ..distributed.comm import Comm
from .entries import (
    build_entries,
    count_id_bits,
    exchange_entries,
    order_hash,
    sort_entries,
    unpack_ids,
)


@dataclass(frozen=True)
class EpochSchedule:
    """This rank's micro-batches of one pass, in order; every rank has the same number.

    Attributes:
        n: entries of all ranks together.
        steps: optimizer steps; global batch b holds the positions from floor(b n / steps) to floor((b + 1)
            n / steps).
        accumulate: micro-batches per step.
        order_hash: hash of the global order, the same on every rank.
        id: (n_local,) int64, this rank's entries in order.
        position: (n_local,) int64, their positions in the global order, increasing; None for 0, 1, 2, ...
        copy: (n_local,) int32, or None for 0.
        weight: (n_local,) float32, or None for 1.
        filler: an id for a rank that has no entry in a step in which others have one.
    """

    n: int
    steps: int
    accumulate: int
    order_hash: int
    id: np.ndarray
    position: np.ndarray | None
    copy: np.ndarray | None
    weight: np.ndarray | None
    filler: int

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def __iter__(self) -> Iterator[MicroBatch]:
        last = 0
        for step in range(self.steps):
            start, stop = _cut(self.n, self.steps, step), _cut(self.n, self.steps, step + 1)
            first, last = last, stop if self.position is None else int(np.searchsorted(self.position, stop))
            for part in range(self.accumulate):
                a, b = (first + _cut(last - first, self.accumulate, p) for p in (part, part + 1))
                yield self._micro_batch(step, part, a, b, start, stop - start)

    def _micro_batch(self, step: int, part: int, a: int, b: int, start: int, n_global: int) -> MicroBatch:
        """Return the entries a to b, or a filler where there are none; start: the step's first position."""
        counts, k, rows = b > a, max(1, b - a), slice(a, b)
        return MicroBatch(
            step=step,
            id=self.id[rows] if counts else np.array([self.filler]),
            copy=self.copy[rows] if counts and self.copy is not None else np.zeros(k, np.int32),
            weight=self.weight[rows] if counts and self.weight is not None else np.ones(k, np.float32),
            position=self._positions(a, b) if counts else np.array([start]),
            counts=counts,
            n_global=n_global,
            begins=part == 0,
            ends=part == self.accumulate - 1,
            progress=(step + 0.5) / self.steps,
        )

    def _positions(self, a: int, b: int) -> np.ndarray:
        return np.arange(a, b) if self.position is None else self.position[a:b]


def deal(
    ids: np.ndarray | range,
    times: np.ndarray,
    epoch: Epoch,
    comm: Comm,
    global_batch: int,
    accumulate: int = 1,
    weight: np.ndarray | None = None,
) -> EpochSchedule:
    """Return this rank's micro-batches over all entries of all ranks, in the epoch's order.

    Two exchanges of each rank's own entries; memory O(n / P). n entries make ceil(n / global_batch) steps,
    whose global batches are of equal size up to one entry.

    Args:
        ids: (S,) int64, or a range; this rank's rows.
        times: (S,) bool or integers, how often each row is passed.
        epoch: decides the order, by its seed and number.
        comm: all ranks.
        global_batch: the largest global batch, in entries.
        accumulate: micro-batches per step.
        weight: (S,) float32, or None for 1; given on all ranks or on none.
    """
    stream = key(epoch.seed, "order", epoch.number)
    id_bits = count_id_bits(ids, comm)
    entries = _sort_by_bucket(build_entries(ids, times, weight, stream, id_bits), comm)
    n_local = np.array([len(entries["packed"])])
    n, before = int(comm.sum(n_local)[0]), int(comm.exscan(n_local)[0])
    steps = -(-n // global_batch)
    hash_of_all = order_hash(entries, range(before, n), comm, id_bits)

    packed = entries.pop("packed")
    entries["id"] = unpack_ids(packed, id_bits, out=packed)
    is_first = len(packed) > 0 and before == 0
    filler = comm.sum(np.array([entries["id"][0] if is_first else 0]))[0]
    position = None
    if comm.size > 1:
        owner = _owner_of(np.arange(before, before + len(packed)), n, steps, comm.size)
        by_owner = np.argsort(owner, kind="stable")
        n_sent = np.bincount(owner, minlength=comm.size)
        # Entries of a lower rank are earlier in the order, so the received parts only need to be
        # concatenated.
        entries = exchange_entries({name: column[by_owner] for name, column in entries.items()}, n_sent, comm)
        position = _positions_of(comm.rank, n, steps, comm.size)
    return EpochSchedule(
        n=n,
        steps=steps,
        accumulate=accumulate,
        order_hash=hash_of_all,
        id=entries["id"],
        position=position,
        copy=entries.get("copy"),
        weight=entries.get("weight"),
        filler=int(filler),
    )


def normalise_batches(schedule: EpochSchedule, comm: Comm) -> EpochSchedule:
    """Return the schedule with weights of mean 1 in every global batch; one of zeros stays as it is.

    One allreduce of an int64 for each step: weights are added in units of 2**-32, the same for any split.
    """
    weight = schedule.weight
    if weight is None or not schedule.n:
        return schedule
    position = np.arange(len(weight)) if schedule.position is None else schedule.position
    step = _step_of(position, schedule.n, schedule.steps)
    sums = np.zeros(schedule.steps, np.int64)
    np.add.at(sums, step, np.rint(weight * 2.0**32).astype(np.int64))
    starts = _cut(schedule.n, schedule.steps, np.arange(schedule.steps + 1))
    mean = comm.sum(sums) * 2.0**-32 / np.diff(starts)
    mean[mean == 0] = 1
    return replace(schedule, weight=(weight / mean[step]).astype(np.float32))


def _cut(n: Any, parts: int, i: Any) -> Any:
    """Return where part i begins when n items are cut into equal parts; all work is divided so."""
    return i * n // parts


def _step_of(position: np.ndarray, n: int, steps: int) -> np.ndarray:
    """Return the step in which each position is trained, (k,) int64: ``_cut`` inverted."""
    return ((position + 1) * steps - 1) // n


def _owner_of(position: np.ndarray, n: int, steps: int, size: int) -> np.ndarray:
    """Return the rank that trains each position, (k,) int64: ``_cut`` inverted, for batches, then ranks."""
    if not n:
        return position
    batch = _step_of(position, n, steps)
    start = _cut(n, steps, batch)
    length = _cut(n, steps, batch + 1) - start
    return ((position - start + 1) * size - 1) // length


def _positions_of(rank: int, n: int, steps: int, size: int) -> np.ndarray:
    """Return the positions that a rank trains, increasing, (n_local,) int64: its part of every batch."""
    step = np.arange(steps)
    start = _cut(n, steps, step)
    length = _cut(n, steps, step + 1) - start
    first = start + _cut(length, size, rank)
    n_local = _cut(length, size, rank + 1) - _cut(length, size, rank)
    return np.arange(n_local.sum()) + np.repeat(first - np.cumsum(n_local) + n_local, n_local)


def _sort_by_bucket(entries: dict[str, np.ndarray], comm: Comm) -> dict[str, np.ndarray]:
    """Sort all ranks' entries; each rank gets an equal range of the hash, so about equally many entries."""
    entries = sort_entries(entries)
    if comm.size == 1:
        return entries
    borders = np.array([(rank << 64) // comm.size for rank in range(1, comm.size)], np.uint64)
    ends = np.searchsorted(entries["packed"], borders)
    return sort_entries(
        exchange_entries(entries, np.diff(ends, prepend=0, append=len(entries["packed"])), comm)
    )
