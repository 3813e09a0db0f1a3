"""Distributed sort: the position of every row among the rows of all ranks, in O(N / P) memory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..distributed.comm import Comm


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
    never are.

    Source: sample sort with regular sampling, Shi and Schaeffer 1992.

    Args:
        keys: (S,) uint32.
        ids: (S,) int64, below 2**32 and unique over all ranks.
        comm: all ranks.
    """
    packed = keys.astype(np.uint64) << np.uint64(32) | ids.astype(np.uint64)
    order = np.argsort(packed)
    packed = packed[order]
    samples = np.sort(np.concatenate(comm.gather(_regular_samples(packed, comm.size))))
    borders = samples[np.arange(1, comm.size) * len(samples) // comm.size] if len(samples) else samples
    ends = np.searchsorted(packed, borders) if len(samples) else [0] * (comm.size - 1)
    received = comm.alltoallv(np.split(packed, ends))

    rows = np.concatenate(received)
    by_key = np.argsort(rows)
    start = int(comm.exscan(np.array([len(rows)]))[0])
    found = np.empty((len(rows), 2), np.int64)
    found[by_key, 0] = np.arange(start, start + len(rows))
    found[by_key, 1] = _first_of_ties(rows[by_key] >> np.uint64(32), start, comm)

    # Each rank gets the positions back in the order in which it sent the rows.
    splits = np.cumsum([len(part) for part in received])[:-1]
    returned = np.concatenate(comm.alltoallv(np.split(found, splits)))
    position, first = np.empty((2, len(keys)), np.int64)
    position[order], first[order] = returned.T
    return Positions(position, first, int(comm.sum(np.array([len(keys)]))[0]))


def _regular_samples(packed: np.ndarray, n: int) -> np.ndarray:
    return packed[np.arange(n) * len(packed) // n] if len(packed) else packed


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
    ends = comm.gather(
        (int(keys[0]), int(keys[-1]), int(begins[-1]), bool(new.sum() == 1)) if len(keys) else None
    )
    carried: tuple[int, int] | None = None  # the last key of the ranks before, and where its run began
    for first, last, began, single in (end for end in ends[: comm.rank] if end is not None):
        if not (carried and single and carried[0] == first):
            carried = last, began
    if len(keys) and carried and carried[0] == keys[0]:
        begins = np.where(keys == keys[0], carried[1], begins)
    return begins
