"""Entries: a sample's turn in an epoch's order, one for each time that it is passed. Columns of equal length, by name.

``packed`` (k,) uint64 is 32 bits of a hash of (seed, epoch, id, copy) above 32 bits of id, so that sorting orders the epoch;
``copy`` (k,) int32 and ``weight`` (k,) float32 are there only where they say anything.
"""

from __future__ import annotations

import numpy as np

from ..core.ledger import ids_at
from ..core.rng import bits
from ..distributed.comm import Comm

MAX_ID = (1 << 32) - 1
_PIECE = 1 << 16  # rows handled at a time: temporaries stay in the cache, and take no memory to speak of


def entries_of(
    ids: np.ndarray | range, times: np.ndarray, weight: np.ndarray | None, stream: int
) -> dict[str, np.ndarray]:
    """Return the entries of these rows, row after row. ids: (S,) int64, or a range. times: (S,) bool or int. weight: (S,) float32."""
    n = int(times.sum(dtype=np.int64))
    entries = {"packed": np.empty(n, np.uint64)}
    if times.dtype != bool:
        entries["copy"] = np.empty(n, np.int32)
    if weight is not None:
        entries["weight"] = np.empty(n, np.float32)
    end = 0
    for first in range(0, len(times), _PIECE):
        some = times[first : first + _PIECE]
        rows = np.flatnonzero(some) if some.dtype == bool else np.repeat(np.arange(len(some)), some)
        part, end = slice(end, end + len(rows)), end + len(rows)
        copy: np.ndarray | int = 0
        if "copy" in entries:
            copy = entries["copy"][part] = np.arange(len(rows)) - np.repeat(np.cumsum(some) - some, some)
        if weight is not None:
            entries["weight"][part] = weight[first + rows]
        id = ids_at(ids, first + rows)
        packed = bits(stream, id, copy)
        packed &= np.uint64(MAX_ID << 32)
        packed |= id.view(np.uint64)
        entries["packed"][part] = packed
    return entries


def ids_in(packed: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return (k,) int64; out: an array to take them, ``packed`` itself for example."""
    return np.bitwise_and(packed, np.uint64(MAX_ID), out=out).view(np.int64)


def in_order(entries: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the entries sorted by their columns late (if there), packed and copy; may sort in place."""
    if len(entries) == 1:
        entries["packed"].sort()  # in place: four times as fast as by an index, and no second array
        return entries
    order = np.lexsort([entries[name] for name in ("copy", "packed", "late") if name in entries])
    return {name: column[order] for name, column in entries.items()}


def sent(entries: dict[str, np.ndarray], ends: np.ndarray, comm: Comm) -> dict[str, np.ndarray]:
    """Cut the columns at ``ends`` (P - 1,), send part r to rank r, and return what came, in order of rank."""
    return {name: np.concatenate(comm.alltoallv(np.split(column, ends))) for name, column in entries.items()}


def order_hash(entries: dict[str, np.ndarray], position: np.ndarray | range, comm: Comm) -> int:
    """Return a hash of the order of all ranks' entries: a sum over entries of a mix of (id, copy) and position."""
    packed, copy, sums = entries["packed"], entries.get("copy"), []
    for first in range(0, len(packed), _PIECE):
        part = slice(first, first + _PIECE)
        content = bits(0, ids_in(packed[part]), 0 if copy is None else copy[part])
        place = bits(1, ids_at(position, np.arange(first, first + len(content))))
        sums.append((place * (content | np.uint64(1))).view(np.int64).sum())
    mine = np.array(sums, np.int64).sum()
    return int(comm.sum(np.array([mine]))[0]) % (1 << 64)
