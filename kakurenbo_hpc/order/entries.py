"""Entries: the occurrences of samples in an epoch's order, one for each time that a sample is passed.

Entries are columns of equal length k, by name. ``packed`` (k,) uint64 holds 32 bits of a hash of
(seed, epoch, id, copy) above 32 bits of id, so that sorting it orders the epoch; ids beyond 2**32 take bits
of the hash, and entries of equal hash follow each other by id. ``copy`` (k,) int32 and ``weight`` (k,)
float32 exist only where they differ from 0 and 1.
"""

from __future__ import annotations

import numpy as np

from ..core.ledger import ids_at
from ..core.rng import bits
from ..distributed.comm import Comm

_CHUNK = 1 << 16  # rows handled at a time, so that temporaries stay small and in the cache


def count_id_bits(ids: np.ndarray | range, comm: Comm) -> int:
    """Return the bits of an entry that hold the id: 32, or more if an id of any rank takes more."""
    largest = max(ids[0], ids[-1]) if isinstance(ids, range) and len(ids) else np.max(ids, initial=0)
    return max(32, int(comm.max(np.array([largest], np.int64))[0]).bit_length())


def build_entries(
    ids: np.ndarray | range, times: np.ndarray, weight: np.ndarray | None, stream: int, id_bits: int = 32
) -> dict[str, np.ndarray]:
    """Return the entries of these rows, row after row.

    Args:
        ids: (S,) int64, or a range.
        times: (S,) bool or integers, the number of entries of each row.
        weight: (S,) float32, or None for 1.
        stream: key of the epoch's order, from ``rng.key``.
        id_bits: of ``packed`` that hold the id.
    """
    n = int(times.sum(dtype=np.int64))
    entries = {"packed": np.empty(n, np.uint64)}
    if times.dtype != bool:
        entries["copy"] = np.empty(n, np.int32)
    if weight is not None:
        entries["weight"] = np.empty(n, np.float32)
    end = 0
    for first in range(0, len(times), _CHUNK):
        chunk = times[first : first + _CHUNK]
        rows = np.flatnonzero(chunk) if chunk.dtype == bool else np.repeat(np.arange(len(chunk)), chunk)
        part, end = slice(end, end + len(rows)), end + len(rows)
        copy: np.ndarray | int = 0
        if "copy" in entries:
            copy = entries["copy"][part] = np.arange(len(rows)) - np.repeat(np.cumsum(chunk) - chunk, chunk)
        if weight is not None:
            entries["weight"][part] = weight[first + rows]
        chunk_ids = ids_at(ids, first + rows)
        packed = bits(stream, chunk_ids, copy)
        packed &= ~_id_mask(id_bits)
        packed |= chunk_ids.view(np.uint64)
        entries["packed"][part] = packed
    return entries


def _id_mask(id_bits: int) -> np.uint64:
    return np.uint64((1 << id_bits) - 1)


def unpack_ids(packed: np.ndarray, id_bits: int = 32, out: np.ndarray | None = None) -> np.ndarray:
    """Return the (k,) int64 ids of packed entries; ``out`` may be ``packed`` itself, to save memory."""
    return np.bitwise_and(packed, _id_mask(id_bits), out=out).view(np.int64)


def sort_entries(entries: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the entries sorted by the columns late (if there is one), packed and copy; may sort in place."""
    if len(entries) == 1:
        entries["packed"].sort()  # in place: four times as fast as by an index, and no second array
        return entries
    order = np.lexsort([entries[name] for name in ("copy", "packed", "late") if name in entries])
    return {name: column[order] for name, column in entries.items()}


def exchange_entries(entries: dict[str, np.ndarray], n_sent: np.ndarray, comm: Comm) -> dict[str, np.ndarray]:
    """Send the first n_sent[0] entries to rank 0, and so on; return what was received, by rank."""
    return {name: comm.exchange(column, n_sent)[0] for name, column in entries.items()}


def order_hash(
    entries: dict[str, np.ndarray], position: np.ndarray | range, comm: Comm, id_bits: int = 32
) -> int:
    """Return a hash of the order of all ranks' entries: the sum of a mix of (id, copy) and position."""
    packed, copy, sums = entries["packed"], entries.get("copy"), []
    for first in range(0, len(packed), _CHUNK):
        part = slice(first, first + _CHUNK)
        content = bits(0, unpack_ids(packed[part], id_bits), 0 if copy is None else copy[part])
        place = bits(1, ids_at(position, np.arange(first, first + len(content))))
        sums.append((place * (content | np.uint64(1))).view(np.int64).sum())
    local = np.array(sums, np.int64).sum()
    return int(comm.sum(np.array([local]))[0]) % (1 << 64)
