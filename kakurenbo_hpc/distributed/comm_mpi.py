"""MPI communicator, through mpi4py, of ranks started by mpirun, mpiexec or srun."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
from mpi4py import MPI

from ..errors import FAILED
from .comm import Comm, Pending, Transfer, flush, grid_width

_FORWARD_S = 0.3  # Open MPI loses what it has not forwarded yet when a rank aborts


class MpiComm(Comm):
    """All ranks of an MPI communicator, on a duplicate of it, so that no other messages mix in."""

    def __init__(self, mpi: MPI.Intracomm = MPI.COMM_WORLD, two_hops_from: int = 1024) -> None:
        """Duplicate the communicator.

        Args:
            mpi: of the ranks.
            two_hops_from: ranks from which on an exchange goes through a grid of ranks: 2 sqrt(P) messages a
                rank instead of P, each row twice.
        """
        self._mpi = self.mpi = mpi.Dup()
        self.rank, self.size = self._mpi.rank, self._mpi.size
        self._width = grid_width(self.size) if self.size >= two_hops_from else self.size
        self._grid: tuple[MPI.Comm, MPI.Comm] | None = None

    def sum(self, array: np.ndarray) -> np.ndarray:
        return self._reduce(array, MPI.SUM)

    def min(self, array: np.ndarray) -> np.ndarray:
        return self._reduce(array, MPI.MIN)

    def max(self, array: np.ndarray) -> np.ndarray:
        return self._reduce(array, MPI.MAX)

    def _reduce(self, array: np.ndarray, op: MPI.Op) -> np.ndarray:
        mine = np.ascontiguousarray(array)
        ours = np.empty_like(mine)
        self._mpi.Allreduce(mine, ours, op)
        return ours.reshape(np.shape(array))

    def exscan(self, array: np.ndarray) -> np.ndarray:
        mine = np.ascontiguousarray(array)
        before = np.zeros_like(mine)
        self._mpi.Exscan(mine, before, MPI.SUM)
        return (
            before.reshape(np.shape(array)) if self.rank else np.zeros_like(array)
        )  # rank 0's buffer is undefined

    def gather(self, value: Any) -> list:
        return self._mpi.allgather(value)

    def broadcast(self, value: Any, root: int = 0) -> Any:
        return self._mpi.bcast(value, root)

    def allgather(self, rows: np.ndarray) -> np.ndarray:
        rows = np.ascontiguousarray(rows)
        n_each = np.empty(self.size, np.int64)
        self._mpi.Allgather(np.array([len(rows)]), n_each)
        everything = np.empty((int(n_each.sum()), *rows.shape[1:]), rows.dtype)
        with _row_type(rows) as row:
            self._mpi.Allgatherv(
                [_bytes(rows), len(rows), row], [_bytes(everything), (n_each, _starts(n_each)), row]
            )
        return everything

    def collect(self, value: Any) -> list:
        return self._mpi.gather(value, 0) or []

    def exchange(self, rows: np.ndarray, n_sent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._width == self.size:
            return _exchange(self._mpi, rows, n_sent)
        if self._grid is None:
            line, place = divmod(self.rank, self._width)
            self._grid = self._mpi.Split(line, self.rank), self._mpi.Split(place, self.rank)
        along, across = self._grid
        return _exchange_in_two_hops(along, across, rows, n_sent)

    def post_max(self, value: int) -> Pending:
        return _Posted(self._mpi, value)

    def post_send(self, data: np.ndarray, to: int) -> Transfer:
        return _Moving(self._mpi.Isend([data, MPI.BYTE], to))

    def post_receive(self, data: np.ndarray, source: int) -> Transfer:
        return _Moving(self._mpi.Irecv([data, MPI.BYTE], source))

    def barrier(self) -> None:
        self._mpi.Barrier()

    def abort(self, code: int = FAILED) -> NoReturn:
        flush()
        time.sleep(_FORWARD_S)
        MPI.COMM_WORLD.Abort(code)
        raise SystemExit(code)

    def close(self) -> None:
        for mpi in (*(self._grid or ()), self._mpi):
            mpi.Free()


class _Posted(Pending):
    def __init__(self, mpi: MPI.Comm, value: int):
        self._mine, self._ours = np.array([value], np.int64), np.zeros(1, np.int64)
        self._request = mpi.Iallreduce(self._mine, self._ours, MPI.MAX)

    def wait(self) -> int:
        self._request.Wait()
        return int(self._ours[0])


class _Moving(Transfer):
    def __init__(self, request: MPI.Request):
        self._request = request

    def done(self) -> bool:
        return self._request.Test()

    def wait(self) -> None:
        self._request.Wait()


def _exchange(mpi: MPI.Comm, rows: np.ndarray, n_sent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, n_received = np.ascontiguousarray(rows), np.empty(len(n_sent), np.int64)
    mpi.Alltoall(n_sent.astype(np.int64), n_received)
    incoming = np.empty((int(n_received.sum()), *rows.shape[1:]), rows.dtype)
    with _row_type(rows) as row:
        mpi.Alltoallv(
            [_bytes(rows), (n_sent, _starts(n_sent)), row],
            [_bytes(incoming), (n_received, _starts(n_received)), row],
        )
    return incoming, n_received


def _exchange_in_two_hops(
    along: MPI.Comm, across: MPI.Comm, rows: np.ndarray, n_sent: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Exchange through a grid: first to the target's column in this line, then to the target's line.

    Args:
        along: the ranks of this rank's line of the grid; ranks are numbered line by line.
        across: those of its column.
        rows: as in ``exchange``.
        n_sent: as in ``exchange``.
    """
    n_lines, width = across.size, along.size
    by_target = n_sent.reshape(n_lines, width)
    column = np.repeat(np.tile(np.arange(width), n_lines), n_sent)
    rows, _ = _exchange(along, rows[np.argsort(column, kind="stable")], by_target.sum(axis=0))
    by_source = _transpose(along, by_target.T)  # (width, n_lines): sources of this line, target lines
    line = np.repeat(np.tile(np.arange(n_lines), width), by_source.ravel())
    rows, _ = _exchange(across, rows[np.argsort(line, kind="stable")], by_source.sum(axis=0))
    return rows, _transpose(across, by_source.T).ravel()


def _transpose(mpi: MPI.Comm, counts: np.ndarray) -> np.ndarray:
    """Send row r of a matrix to rank r; return the matrix of the rows received."""
    counts = np.ascontiguousarray(counts, np.int64)
    received = np.empty_like(counts)
    mpi.Alltoall(counts, received)
    return received


@contextmanager
def _row_type(rows: np.ndarray) -> Iterator[MPI.Datatype]:
    """Yield a row as one MPI type: counts of bytes would overflow 32 bits at 2 GiB."""
    n_bytes = rows.dtype.itemsize * int(np.prod(rows.shape[1:], dtype=np.int64))
    row = MPI.BYTE.Create_contiguous(n_bytes).Commit()
    try:
        yield row
    finally:
        row.Free()


def _bytes(rows: np.ndarray) -> np.ndarray:
    return rows.view(np.uint8) if rows.size else rows


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)[:-1]])
