"""Shared reading for staging: each missing file is read once, by one rank, and sent to all that want it.

Reads are divided evenly over ranks, whichever rank lacks the files: all ranks refill the disk of a replaced
node. Files that a rank reads for others pass through its own cache, a few at a time, so an interrupted
staging resumes like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from time import perf_counter
from typing import NamedTuple

import numpy as np

from ..data.dataset import SampleFiles
from ..distributed.comm import Comm
from ..rundir.path_checks import in_words
from .node_cache import NodeCache
from .transfer import FileExchange, FileMove

ROUND = 1 << 30  # bytes that a rank reads before it sends: room that it needs beside its own share


@dataclass(frozen=True)
class Traffic:
    """Bytes of all ranks together, and the seconds of the slowest.

    Attributes:
        copied: bytes that caches lacked.
        read: bytes from the shared file system.
        read_s: how long that took.
        sent: bytes from rank to rank.
        sent_s: how long that took.
    """

    copied: int = 0
    read: int = 0
    read_s: float = 0.0
    sent: int = 0
    sent_s: float = 0.0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __str__(self) -> str:
        ways = [
            (self.read, self.read_s, "read from the shared file system"),
            (self.sent, self.sent_s, "sent between ranks"),
        ]
        return ", ".join(
            f"{in_words(n)} {how} at {n / max(seconds, 1e-9) / 1e9:.3g} GB/s" for n, seconds, how in ways if n
        )


class Deal(NamedTuple):
    """Who reads a file for whom.

    Attributes:
        row: (n,) int64, of the file.
        rank: (n,) int64, that wants it; sorted by row, then by this.
        reader: (n,) int64, the same for all of one row.
        turn: (n,) int64, in which of the reader's rounds.
    """

    row: np.ndarray
    rank: np.ndarray
    reader: np.ndarray
    turn: np.ndarray


def deal_reading(row: np.ndarray, rank: np.ndarray, sizes: np.ndarray, n_ranks: int) -> Deal:
    """Deal the reading of files to ranks: equal bytes up to one file, to a rank that wants it if possible.

    Args:
        row: (n,) int64, of the files that ranks lack.
        rank: (n,) int64, which rank lacks it.
        sizes: (N,) int64, of all files, in bytes.
        n_ranks: how many there are.
    """
    order = np.lexsort((rank, row))
    row, rank = row[order], rank[order]
    files, first, of_pair, n_wanting = np.unique(
        row, return_index=True, return_inverse=True, return_counts=True
    )
    n_bytes = sizes[files]
    share = -(-int(n_bytes.sum()) // n_ranks)
    reader = rank[first + np.arange(len(files)) % n_wanting]
    full = _bytes_before(reader, n_bytes) >= share
    room = np.maximum(share - np.bincount(reader[~full], n_bytes[~full], n_ranks), 0)
    before = np.cumsum(n_bytes[full]) - n_bytes[full]
    reader[full] = np.minimum(np.searchsorted(np.cumsum(room), before, side="right"), n_ranks - 1)
    turn = _bytes_before(reader, n_bytes) // ROUND
    return Deal(row, rank, reader[of_pair], turn[of_pair])


def deal_missing(missing: Sequence[int], sizes: np.ndarray, comm: Comm) -> Deal:
    """Return who reads what all ranks lack, given the rows that this one lacks. Collective."""
    lacking = comm.gather(np.unique(np.array(missing, np.int64)))
    wanting = np.repeat(np.arange(comm.size), [len(rows) for rows in lacking])
    return deal_reading(np.concatenate(lacking), wanting, sizes, comm.size)


def fetch_together(files: SampleFiles, deal: Deal, store: NodeCache, comm: Comm, bar: Callable) -> Traffic:
    """Fill every rank's cache with the files that it lacks. Collective.

    Args:
        files: of the data set.
        deal: who reads what for whom.
        store: this rank's cache.
        comm: all ranks.
        bar: ``Console.bar``.

    Raises:
        DataError: a file cannot be read, on all ranks alike; or not be written, on its rank alone.
    """
    traffic = Traffic()
    for turn in range(int(deal.turn.max(initial=-1)) + 1):
        traffic += _take_turn(files, deal, deal.turn == turn, store, comm, bar)
    return traffic


def foreign_bytes(files: SampleFiles, deal: Deal, rank: int) -> int:
    """Return the most bytes that a rank's cache holds for others at a time."""
    mine = deal.reader == rank
    own = np.isin(deal.row, deal.row[mine & (deal.rank == rank)])
    rows, first = np.unique(deal.row[mine & ~own], return_index=True)
    turns = deal.turn[mine & ~own][first]
    return int(np.bincount(turns, files.sizes[rows]).max(initial=0))


def _take_turn(
    files: SampleFiles, deal: Deal, now: np.ndarray, store: NodeCache, comm: Comm, bar: Callable
) -> Traffic:
    """Read the files of one round, send them, and drop those that were read for others alone."""
    mine = np.unique(deal.row[now & (deal.reader == comm.rank)])
    wanted = deal.row[now & (deal.rank == comm.rank)]
    # What this rank holds already, it can send.
    for_others = store.missing_rows(files, np.setdiff1d(mine, wanted).tolist())
    to_read = [*np.intersect1d(mine, wanted).tolist(), *for_others]
    comm.barrier()
    begun = perf_counter()
    comm.run_or_raise_together(lambda: sum(bar(store.fetch(files, to_read), len(to_read), "stage")))
    read = perf_counter()
    moves = np.flatnonzero(now & (deal.reader != deal.rank))  # also their numbers, the same on all ranks
    outgoing = moves[deal.reader[moves] == comm.rank]
    incoming = moves[deal.rank[moves] == comm.rank]
    FileExchange(
        _moves(files, deal.row, deal.rank, outgoing),
        _moves(files, deal.row, deal.reader, incoming),
        store,
        comm,
    ).finish()
    comm.barrier()
    sent = perf_counter()
    store.drop(files.names[row] for row in for_others)
    seconds = comm.max(np.array([read - begun, sent - read]))
    [n_read] = comm.sum(np.array([files.sizes[to_read].sum()])).tolist()
    n_copied, n_sent = (int(files.sizes[deal.row[pairs]].sum()) for pairs in (now, moves))
    return Traffic(n_copied, n_read, float(seconds[0]), n_sent, float(seconds[1]))


def _moves(files: SampleFiles, row: np.ndarray, other: np.ndarray, numbers: np.ndarray) -> list[FileMove]:
    return [
        FileMove(
            number,
            files.names[row[number]],
            int(files.sizes[row[number]]),
            int(files.changed[row[number]]),
            to,
        )
        for number, to in zip(numbers.tolist(), other[numbers].tolist(), strict=True)
    ]


def _bytes_before(rank: np.ndarray, n_bytes: np.ndarray) -> np.ndarray:
    """Return the bytes of each rank's files before each one of them."""
    order = np.argsort(rank, kind="stable")
    before = np.cumsum(n_bytes[order]) - n_bytes[order]
    starts = np.searchsorted(rank[order], rank[order], side="left")
    result = np.empty_like(before)
    result[order] = before - before[starts]
    return result
