"""MPI communicator, through mpi4py, of ranks started by mpirun, mpiexec or srun."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from mpi4py import MPI

from ..errors import FAILED
from .comm import Comm, Pending, Transfer, flush

_FORWARD_S = 0.3  # Open MPI loses what it has not forwarded yet when a rank aborts


class MpiComm(Comm):
    """All ranks of an MPI communicator, on a duplicate of it, so that no other messages mix in."""

    def __init__(self, mpi: MPI.Intracomm = MPI.COMM_WORLD) -> None:
        self._mpi = self.mpi = mpi.Dup()
        self.rank, self.size = self._mpi.rank, self._mpi.size

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

    def alltoallv(self, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
        dtype, shape = parts[0].dtype, parts[0].shape[1:]
        n_sent = np.array([len(part) for part in parts], np.int64)
        n_received = np.empty_like(n_sent)
        self._mpi.Alltoall(n_sent, n_received)
        # Counted in whole rows, as one MPI type: counts of bytes would overflow 32 bits at 2 GiB.
        row = MPI.BYTE.Create_contiguous(dtype.itemsize * int(np.prod(shape, dtype=np.int64))).Commit()
        outgoing = np.concatenate(parts) if len(parts) > 1 else np.ascontiguousarray(parts[0])
        incoming = np.empty((int(n_received.sum()), *shape), dtype)
        self._mpi.Alltoallv(
            [outgoing.view(np.uint8) if outgoing.size else outgoing, (n_sent, _starts(n_sent)), row],
            [incoming.view(np.uint8) if incoming.size else incoming, (n_received, _starts(n_received)), row],
        )
        row.Free()
        return np.split(incoming, np.cumsum(n_received)[:-1])

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
        self._mpi.Free()


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


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)[:-1]])
