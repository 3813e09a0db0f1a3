"""Entries: a sample's turn in an epoch's order, one for each time that it is passed. Columns of equal length, by name.

``packed`` (k,) uint64 is 32 bits of a hash of (seed, epoch, id, copy) above 32 bits of id, so that sorting orders the epoch;
``copy`` (k,) int32 and ``weight`` (k,) float32 are there only where they say anything.
"""

from __future__ import annotations

import numpy as np

from ..draws import bits
from ..world.comm import Comm

MAX_ID = (1 << 32) - 1


def entries_of(ids: np.ndarray, times: np.ndarray, weight: np.ndarray | None, stream: int) -> dict[str, np.ndarray]:
    """Return the entries of these rows, row after row. ids: (S,) int64. times: (S,) bool or int. weight: (S,) float32."""
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


def ids_in(packed: np.ndarray) -> np.ndarray:
    """Return (k,) int64."""
    return (packed & np.uint64(MAX_ID)).view(np.int64)


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


def order_hash(entries: dict[str, np.ndarray], position: np.ndarray, comm: Comm) -> int:
    """Return a hash of the order of all ranks' entries: a sum over entries of a mix of (id, copy) and position."""
    content = bits(0, ids_in(entries["packed"]), entries.get("copy", 0))
    mine = (bits(1, position) * (content | np.uint64(1))).view(np.int64).sum()
    return int(comm.sum(np.array([mine]))[0]) % (1 << 64)
