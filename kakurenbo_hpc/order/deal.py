"""From a plan to turns: the epoch's global order, cut into batches, and each rank's part of every batch.

The order is a pure function of (seed, epoch, id, copy): everything is permuted by a hash and the hidden are dropped, so
that hiding never disturbs the order of the rest, and global batch b is the same set of ids on any number of ranks.
Ranks sort by buckets of the hash; no rank ever holds more than about its share, O(n / P).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..core.batch import MicroBatch
from ..core.plan import Epoch
from ..core.rng import key
from ..distributed.comm import Comm
from .entries import entries_of, ids_in, in_order, order_hash, sent


@dataclass(frozen=True)
class EpochSchedule:
    """This rank's local batches of one pass, in order; every rank has equally many.

    n: entries of all ranks together. steps: optimizer steps; batch b holds the positions from floor(b n / steps) to
    floor((b + 1) n / steps). order_hash: of the global order, the same on every rank.
    id: (n_local,) int64, this rank's entries in order; position: (n_local,) int64, their places in the global order,
    growing, or None for 0, 1, 2, ... copy, weight: alike, or None for 0 and 1.
    filler: an id for a rank that has nothing to do while others work.
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
                rows = slice(a, b)
                counts = b > a
                yield MicroBatch(
                    step=step,
                    id=self.id[rows] if counts else np.array([self.filler]),
                    copy=np.zeros(max(1, b - a), np.int32)
                    if self.copy is None or not counts
                    else self.copy[rows],
                    weight=np.ones(max(1, b - a), np.float32)
                    if self.weight is None or not counts
                    else self.weight[rows],
                    position=np.array([start])
                    if not counts
                    else np.arange(a, b)
                    if self.position is None
                    else self.position[rows],
                    counts=counts,
                    n_global=stop - start,
                    begins=part == 0,
                    ends=part == self.accumulate - 1,
                    progress=(step + 0.5) / self.steps,
                )


def deal(
    ids: np.ndarray | range,
    times: np.ndarray,
    epoch: Epoch,
    comm: Comm,
    global_batch: int,
    accumulate: int = 1,
    weight: np.ndarray | None = None,
) -> EpochSchedule:
    """Return this rank's turns over all entries of all ranks, in the epoch's order.

    ids: (S,) int64 or a range, this rank's rows, below 2**32. times: (S,) bool or int, how often each is to be passed.
    weight: (S,) float32, or None for 1; given on all ranks or on none. global_batch: the largest batch; n entries make
    ceil(n / global_batch) batches, equal in size up to one.
    Two exchanges of each rank's own entries; memory O(n / P).
    """
    stream = key(epoch.seed, "order", epoch.number)
    entries = _bucket_sorted(entries_of(ids, times, weight, stream), comm)
    n_here = np.array([len(entries["packed"])])
    n, before = int(comm.sum(n_here)[0]), int(comm.exscan(n_here)[0])
    steps = -(-n // global_batch)
    hash_of_all = order_hash(entries, range(before, n), comm)

    packed = entries.pop("packed")
    entries["id"] = ids_in(packed, out=packed)
    filler = next((first[0] for first in comm.gather(entries["id"][:1]) if len(first)), 0)
    position = None
    if comm.size > 1:
        owner = _owner(np.arange(before, before + len(packed)), n, steps, comm.size)
        by_owner = np.argsort(owner, kind="stable")
        ends = np.searchsorted(owner[by_owner], np.arange(1, comm.size))
        # What comes from a lower rank is earlier in the order, so the parts only need to be put end to end.
        entries = sent({name: column[by_owner] for name, column in entries.items()}, ends, comm)
        position = _owned(comm.rank, n, steps, comm.size)
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


def _cut(n: int, parts: int, i: int) -> int:
    """Where part i begins when n things are cut into equal parts: the one rule by which work is divided."""
    return i * n // parts


def _owner(position: np.ndarray, n: int, steps: int, size: int) -> np.ndarray:
    """Return which rank trains each position, (k,) int64: ``_cut`` turned round, for batches and for ranks in them."""
    if not n:
        return position
    batch = ((position + 1) * steps - 1) // n
    start = _cut(n, steps, batch)
    length = _cut(n, steps, batch + 1) - start
    return ((position - start + 1) * size - 1) // length


def _owned(rank: int, n: int, steps: int, size: int) -> np.ndarray:
    """Return the positions that a rank trains, growing, (n_local,) int64: its part of every batch."""
    step = np.arange(steps)
    start = _cut(n, steps, step)
    length = _cut(n, steps, step + 1) - start
    first, n_mine = start + _cut(length, size, rank), _cut(length, size, rank + 1) - _cut(length, size, rank)
    return np.arange(n_mine.sum()) + np.repeat(first - np.cumsum(n_mine) + n_mine, n_mine)


def _bucket_sorted(entries: dict[str, np.ndarray], comm: Comm) -> dict[str, np.ndarray]:
    """Sort all ranks' entries: the hash's range is cut evenly into a bucket a rank, so buckets are alike in size."""
    entries = in_order(entries)
    if comm.size == 1:
        return entries
    borders = np.array([(rank << 64) // comm.size for rank in range(1, comm.size)], np.uint64)
    return in_order(sent(entries, np.searchsorted(entries["packed"], borders), comm))
