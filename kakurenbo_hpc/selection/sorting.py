"""Distributed sort: the position of every row among the rows of all ranks, in O(N / P) memory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..distributed.comm import Comm

_SAMPLES = 1 << 20  # of all ranks together at most, on every rank: 8 MB


class Positions(NamedTuple):
    """Positions of rows in the order of (key, id) of all ranks.

    Attributes:
        position: (S,) int64, from 0.
        first_of_ties: (S,) int64, the position of the first row with the same key.
        n: rows of all ranks.
    """

    position: np.ndarray
    first_of_ties: np.ndarray
    n: int


def find_positions(keys: np.ndarray, ids: np.ndarray, comm: Comm) -> Positions:
    """Sort all ranks' rows by (key, id) and return each row's position.

    Two exchanges of each rank's rows. O(N / P) memory even if all keys are equal, since the pairs (key, id)
    never are. The borders between ranks come from a sample of P rows a rank, beyond 1,024 ranks of fewer.

    Source: sample sort with regular sampling, Shi and Schaeffer 1992.

    Args:
        keys: (S,) uint32.
        ids: (S,) int64, unique over all ranks.
        comm: all ranks.
    """
    packed = _pack(keys, ids, comm)
    order = np.argsort(packed)
    packed = packed[order]
    samples = np.sort(comm.allgather(_regular_samples(packed, comm)))
    borders = samples[np.arange(1, comm.size) * len(samples) // comm.size] if len(samples) else samples
    ends = np.searchsorted(packed, borders) if len(samples) else np.zeros(comm.size - 1, np.int64)
    rows, n_received = comm.exchange(packed, np.diff(ends, prepend=0, append=len(packed)))

    by_key = np.argsort(rows)
    start = int(comm.exscan(np.array([len(rows)]))[0])
    found = np.empty((len(rows), 2), np.int64)
    found[by_key, 0] = np.arange(start, start + len(rows))
    found[by_key, 1] = _first_of_ties(_keys_of(rows[by_key]), start, comm)

    # Each rank gets the positions back in the order in which it sent the rows.
    returned, _ = comm.exchange(found, n_received)
    position, first = np.empty((2, len(keys)), np.int64)
    position[order], first[order] = returned.T
    return Positions(position, first, int(comm.sum(np.array([len(keys)]))[0]))


def _pack(keys: np.ndarray, ids: np.ndarray, comm: Comm) -> np.ndarray:
    """Return the pairs (key, id), (S,), in a type that sorts as they do.

    That is uint64 where all ids fit into 32 bits, else complex128: its parts hold integers to 2**53.
    """
    if comm.max(np.array([ids.max(initial=0)]))[0] < 1 << 32:
        return keys.astype(np.uint64) << np.uint64(32) | ids.astype(np.uint64)
    return keys + 1j * ids


def _keys_of(packed: np.ndarray) -> np.ndarray:
    return packed.real.astype(np.uint64) if packed.dtype.kind == "c" else packed >> np.uint64(32)


def _regular_samples(packed: np.ndarray, comm: Comm) -> np.ndarray:
    """Return some of this rank's sorted rows, at equal distances; each rank begins at another offset."""
    n = min(comm.size, max(1, _SAMPLES // comm.size))
    rows = (np.arange(n) * comm.size + comm.rank) * len(packed) // (n * comm.size)
    return packed[rows] if len(packed) else packed


def _first_of_ties(keys: np.ndarray, start: int, comm: Comm) -> np.ndarray:
    """Return, for keys sorted over all ranks, the position at which each key's run of equals begins.

    start: the position of this rank's first key.
    """
    new = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
    begins = (
        np.maximum.accumulate(np.where(new, np.arange(start, start + len(keys)), 0))
        if len(keys)
        else np.zeros(0, np.int64)
    )
    if not len(keys):
        own = np.zeros((0, 3), np.int64)
    else:
        own = np.array([[int(keys[0]), int(keys[-1]), int(begins[-1])]])
    n_before = int(comm.exscan(np.array([len(own)]))[0])
    ends = comm.allgather(own)[:n_before]  # of the ranks before that have rows
    if len(keys) and n_before and ends[-1, 1] == keys[0]:
        # The run of equals may span ranks: it began on the first one of those that end with this key.
        first = np.searchsorted(ends[:, 1], int(keys[0]))
        begins = np.where(keys == keys[0], ends[first, 2], begins)
    return begins
