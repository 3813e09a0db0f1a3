"""Communicators of benchmarks: one that counts what a rank sends, and one rank of many that are not there."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from kakurenbo_hpc.distributed.comm import Comm, SerialComm


class Call(NamedTuple):
    """A collective call of one rank.

    Attributes:
        kind: reduce, exchange, allgather, or pickle (of gathers and broadcasts).
        n_bytes: that the rank hands in; of an exchange all its rows, those for itself too.
        messages: of rows, to other ranks, in an exchange.
    """

    kind: str
    n_bytes: int
    messages: int = 0


class Counted:
    """A Comm that notes this rank's calls.

    Attributes:
        sent: bytes that leave the rank.
        messages: calls.
        calls: each of them.
        inside_s: processor seconds in them, of ranks that poll while they wait.
    """

    def __init__(self, comm: Comm):
        self._comm, self.sent, self.messages, self.inside_s = comm, 0, 0, 0.0
        self.calls: list[Call] = []

    def __getattr__(self, name: str):
        return getattr(self._comm, name)

    def _count(
        self, n_bytes: int, kind: str = "reduce", n_sent: int | None = None, messages: int = 0
    ) -> None:
        self.calls.append(Call(kind, int(n_bytes), messages))
        self.sent, self.messages = self.sent + int(n_bytes if n_sent is None else n_sent), self.messages + 1

    def _timed(self, call: Callable[..., Any], *words: object) -> Any:
        begun = time.process_time()
        found = call(*words)
        self.inside_s += time.process_time() - begun
        return found

    def sum(self, array: np.ndarray) -> np.ndarray:
        self._count(np.asarray(array).nbytes)
        return self._timed(self._comm.sum, array)

    def min(self, array: np.ndarray) -> np.ndarray:
        self._count(np.asarray(array).nbytes)
        return self._timed(self._comm.min, array)

    def max(self, array: np.ndarray) -> np.ndarray:
        self._count(np.asarray(array).nbytes)
        return self._timed(self._comm.max, array)

    def exscan(self, array: np.ndarray) -> np.ndarray:
        self._count(np.asarray(array).nbytes)
        return self._timed(self._comm.exscan, array)

    def allgather(self, rows: np.ndarray) -> np.ndarray:
        self._count(np.asarray(rows).nbytes, "allgather")
        return self._timed(self._comm.allgather, rows)

    def gather(self, value: object) -> list:
        self._count(len(pickle.dumps(value, pickle.HIGHEST_PROTOCOL)), "pickle")
        return self._timed(self._comm.gather, value)

    def collect(self, value: object) -> list:
        self._count(len(pickle.dumps(value, pickle.HIGHEST_PROTOCOL)), "pickle")
        return self._timed(self._comm.collect, value)

    def broadcast(self, value: object, root: int = 0) -> object:
        is_root = self.rank == root
        self._count(len(pickle.dumps(value, pickle.HIGHEST_PROTOCOL)) if is_root else 0, "pickle")
        return self._timed(self._comm.broadcast, value, root)

    def exchange(self, rows: np.ndarray, n_sent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = int(n_sent[self.rank]) * (rows.nbytes // max(1, len(rows)))
        messages = int(np.count_nonzero(n_sent)) - bool(n_sent[self.rank])
        self._count(rows.nbytes, "exchange", 8 * self.size + rows.nbytes - own, messages)
        return self._timed(self._comm.exchange, rows, n_sent)

    def alltoallv(self, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
        rows, n_received = self.exchange(np.concatenate(parts), np.array([len(part) for part in parts]))
        return np.split(rows, np.cumsum(n_received)[:-1])

    def allgatherv(self, array: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
        """Return all ranks' arrays end to end; straight to MPI, as an author of the short way would."""
        from mpi4py import MPI

        self._count(array.nbytes, "allgather")
        everything = np.empty(sum(sizes), array.dtype)
        MPI.COMM_WORLD.Allgatherv(array, [everything, sizes])
        return everything


class Simulated(SerialComm):
    """One rank among ``size`` that do as it does: sums are ``size`` times its own, exchanges return its rows.

    So a rank's work on its share, and on arrays as long as the ranks are many, is that of a real rank.
    """

    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size

    def sum(self, array: np.ndarray) -> np.ndarray:
        array = np.asarray(array)
        return array if len(array) == self.size else array * array.dtype.type(self.size)

    def max(self, array: np.ndarray) -> np.ndarray:
        return np.array(array)

    min = max

    def exscan(self, array: np.ndarray) -> np.ndarray:
        array = np.asarray(array)
        return np.zeros_like(array) if len(array) == self.size else array * array.dtype.type(self.rank)

    def allgather(self, rows: np.ndarray) -> np.ndarray:
        return np.concatenate([rows] * self.size)
