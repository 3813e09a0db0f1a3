"""From a plan to turns: the epoch's global order, cut into batches, and each rank's part of every batch.

The order is a pure function of (seed, epoch, id, copy): everything is permuted by a hash and the hidden are dropped, so
that hiding never disturbs the order of the rest, and global batch b is the same set of ids on any number of ranks.
Ranks sort by buckets of the hash; no rank ever holds more than about its share, O(n / P).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..batch import Turn
from ..draws import bits, key
from ..plan import Epoch
from ..world.comm import Comm

MAX_ID = (1 << 32) - 1  # an entry is sorted as one integer: 32 bits of hash, then 32 bits of id


@dataclass(frozen=True)
class Turns:
    """This rank's local batches of one pass, in order; every rank has equally many.

    n: entries of all ranks together. steps: optimizer steps. order_hash: of the global order, the same on every rank.
    id: (n_local,) int64, this rank's entries one batch after the other. copy, weight: alike, or None for 0 and 1.
    filler: an id for a rank that gets no entry at all.
    """

    n: int
    steps: int
    accumulate: int
    order_hash: int
    rank: int
    size: int
    id: np.ndarray
    copy: np.ndarray | None
    weight: np.ndarray | None
    filler: int

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def __iter__(self) -> Iterator[Turn]:
        done = 0
        for step in range(self.steps):
            start, stop = _cut(self.n, self.steps, step), _cut(self.n, self.steps, step + 1)
            first, last = (_cut(stop - start, self.size, r) for r in (self.rank, self.rank + 1))
            for part in range(self.accumulate):
                a, b = (_cut(last - first, self.accumulate, p) for p in (part, part + 1))
                rows = slice(done, done + b - a)
                done += b - a
                counts = b > a
                yield Turn(
                    step=step,
                    id=self.id[rows] if counts else np.array([self.filler]),
                    copy=np.zeros(max(1, b - a), np.int32) if self.copy is None or not counts else self.copy[rows],
                    weight=np.ones(max(1, b - a), np.float32) if self.weight is None or not counts else self.weight[rows],
                    position=np.arange(start + first + a, start + first + max(b, a + 1)),
                    counts=counts,
                    n_global=stop - start,
                    begins=part == 0,
                    ends=part == self.accumulate - 1,
                    progress=(step + 0.5) / self.steps,
                )


def deal(
    ids: np.ndarray,
    times: np.ndarray,
    epoch: Epoch,
    comm: Comm,
    global_batch: int,
    accumulate: int = 1,
    weight: np.ndarray | None = None,
) -> Turns:
    """Return this rank's turns over all entries of all ranks, in the epoch's order.

    ids: (S,) int64, this rank's rows, below 2**32. times: (S,) bool or int, how often each is to be passed.
    weight: (S,) float32, or None for 1; given on all ranks or on none. global_batch: the largest batch; n entries make
    ceil(n / global_batch) batches, equal in size up to one.
    Two exchanges of each rank's own entries; memory O(n / P).
    """
    stream = key(epoch.seed, "order", epoch.number)
    entries = _bucket_sorted(_entries(ids, times, weight, stream), comm)
    n_here = np.array([len(entries["packed"])])
    n, before = int(comm.sum(n_here)[0]), int(comm.exscan(n_here)[0])
    steps = -(-n // global_batch)
    order_hash = _order_hash(entries, before)

    entries["id"] = (entries.pop("packed") & np.uint64(MAX_ID)).view(np.int64)
    filler = next((first[0] for first in comm.gather(entries["id"][:1]) if len(first)), 0)
    if comm.size > 1:
        owner = _owner(np.arange(before, before + int(n_here[0])), n, steps, comm.size)
        by_owner = np.argsort(owner, kind="stable")
        ends = np.searchsorted(owner[by_owner], np.arange(1, comm.size))
        # What comes from a lower rank is earlier in the order, so the parts only need to be put end to end.
        entries = _exchanged({name: column[by_owner] for name, column in entries.items()}, ends, comm)
    return Turns(
        n=n,
        steps=steps,
        accumulate=accumulate,
        order_hash=int(comm.sum(np.array([order_hash]))[0]) % (1 << 64),
        rank=comm.rank,
        size=comm.size,
        id=entries["id"],
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


def _entries(ids: np.ndarray, times: np.ndarray, weight: np.ndarray | None, stream: int) -> dict[str, np.ndarray]:
    """Return the columns of this rank's entries: packed (hash, id), and copy and weight where they say anything."""
    if times.dtype == bool:
        rows = np.flatnonzero(times)
        copy: np.ndarray | int = 0
    else:
        rows = np.repeat(np.arange(len(ids)), times)
        copy = (np.arange(len(rows)) - np.repeat(np.cumsum(times) - times, times)).astype(np.int32)
    packed = bits(stream, ids[rows], copy)
    packed &= np.uint64(MAX_ID << 32)
    packed |= ids[rows].astype(np.uint64)
    entries = {"packed": packed}
    if times.dtype != bool:
        entries["copy"] = copy
    if weight is not None:
        entries["weight"] = weight[rows]
    return entries


def _bucket_sorted(entries: dict[str, np.ndarray], comm: Comm) -> dict[str, np.ndarray]:
    """Sort all ranks' entries: the hash's range is cut evenly into a bucket a rank, so buckets are alike in size."""
    entries = _sorted(entries)
    if comm.size == 1:
        return entries
    borders = np.array([(rank << 64) // comm.size for rank in range(1, comm.size)], np.uint64)
    return _sorted(_exchanged(entries, np.searchsorted(entries["packed"], borders), comm))


def _sorted(entries: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if len(entries) == 1:
        entries["packed"].sort()  # in place: four times as fast as by an index, and no second array
        return entries
    order = np.lexsort([entries[name] for name in ("copy", "packed") if name in entries])
    return {name: column[order] for name, column in entries.items()}


def _exchanged(entries: dict[str, np.ndarray], ends: np.ndarray, comm: Comm) -> dict[str, np.ndarray]:
    return {name: np.concatenate(comm.alltoallv(np.split(column, ends))) for name, column in entries.items()}


def _order_hash(entries: dict[str, np.ndarray], before: int) -> np.int64:
    """Return this rank's part of the hash of the global order: a sum over entries of a mix of (id, copy) and place."""
    place = np.arange(before, before + len(entries["packed"]), dtype=np.int64)
    content = bits(0, (entries["packed"] & np.uint64(MAX_ID)).view(np.int64), entries.get("copy", 0))
    return (bits(1, place) * (content | np.uint64(1))).view(np.int64).sum()
