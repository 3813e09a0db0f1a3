"""A sort over ranks: every row learns its place among all rows, and nobody holds more than about twice its share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..distributed.comm import Comm


class Places(NamedTuple):
    """Where rows stand in the order of (key, id) of all ranks.

    place: (S,) int64, from 0. first_of_ties: (S,) int64, the place of the first row with the same key. n: all rows.
    """

    place: np.ndarray
    first_of_ties: np.ndarray
    n: int


def places(keys: np.ndarray, ids: np.ndarray, comm: Comm) -> Places:
    """Sort all ranks' rows by (key, id) and tell each row its place.

    keys: (S,) uint32; ids: (S,) int64, below 2**32 and unique over all ranks. O(N / P) memory however many keys are
    equal, since (key, id) never are. Two exchanges of each rank's rows.
    Source: sample sort with regular sampling, Shi and Schaeffer 1992.
    """
    packed = keys.astype(np.uint64) << np.uint64(32) | ids.astype(np.uint64)
    order = np.argsort(packed)
    packed = packed[order]
    samples = np.sort(np.concatenate(comm.gather(_regular(packed, comm.size))))
    borders = samples[np.arange(1, comm.size) * len(samples) // comm.size] if len(samples) else samples
    ends = np.searchsorted(packed, borders) if len(samples) else [0] * (comm.size - 1)
    got = comm.alltoallv(np.split(packed, ends))

    rows = np.concatenate(got)
    here = np.argsort(rows)
    start = int(comm.exscan(np.array([len(rows)]))[0])
    answer = np.empty((len(rows), 2), np.int64)
    answer[here, 0] = np.arange(start, start + len(rows))
    answer[here, 1] = _first_of_ties(rows[here] >> np.uint64(32), start, comm)

    # Each rank gets its rows' answers back in the order in which it sent the rows.
    home = np.concatenate(comm.alltoallv(np.split(answer, np.cumsum([len(part) for part in got])[:-1])))
    place, first = np.empty((2, len(keys)), np.int64)
    place[order], first[order] = home.T
    return Places(place, first, int(comm.sum(np.array([len(keys)]))[0]))


def _regular(packed: np.ndarray, n: int) -> np.ndarray:
    return packed[np.arange(n) * len(packed) // n] if len(packed) else packed


def _first_of_ties(keys: np.ndarray, start: int, comm: Comm) -> np.ndarray:
    """Return, for sorted keys that go on from rank to rank, the place where each key's run of equals begins."""
    new = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
    begins = (
        np.maximum.accumulate(np.where(new, np.arange(start, start + len(keys)), 0))
        if len(keys)
        else np.zeros(0, np.int64)
    )
    ends = comm.gather(
        (int(keys[0]), int(keys[-1]), int(begins[-1]), bool(new.sum() == 1)) if len(keys) else None
    )
    carried: tuple[int, int] | None = None  # the last key before this rank, and where its run began
    for first, last, began, single in (end for end in ends[: comm.rank] if end is not None):
        if not (carried and single and carried[0] == first):
            carried = last, began
    if len(keys) and carried and carried[0] == keys[0]:
        begins = np.where(keys == keys[0], carried[1], begins)
    return begins
