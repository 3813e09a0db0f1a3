"""Collective communication: the `Comm` interface and its single-process implementation.

All calls but ``post_send`` and ``post_receive`` are collective: every rank makes the same calls in the same
order. All are made from the main thread. Arrays are numpy, of any numeric dtype, equal in shape and dtype on
all ranks unless said otherwise; what comes back is a new array.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar, cast

import numpy as np

from ..errors import FAILED, UserError

T = TypeVar("T")


class Pending(ABC):
    """A reduction that is under way."""

    @abstractmethod
    def wait(self) -> int:
        """Return the result. Waited for, not polled: polls complete at different steps on different ranks."""


class Transfer(ABC):
    """Bytes on their way between two ranks; unlike a ``Pending``, no collective decision depends on it."""

    @abstractmethod
    def done(self) -> bool:
        """Return whether they were sent, or received; False where that is known only after ``wait``."""

    @abstractmethod
    def wait(self) -> None:
        """Return when they have."""


class Comm(ABC):
    """Collective operations among ranks.

    Attributes:
        rank: number of this rank.
        size: number of ranks.
        mpi: mpi4py's communicator of them, or None.
    """

    rank: int
    size: int
    mpi: Any = None

    @abstractmethod
    def sum(self, array: np.ndarray) -> np.ndarray:
        """Return the elementwise sum over ranks; integers wrap as numpy's do."""

    @abstractmethod
    def min(self, array: np.ndarray) -> np.ndarray:
        """Return the elementwise minimum over ranks."""

    @abstractmethod
    def max(self, array: np.ndarray) -> np.ndarray:
        """Return the elementwise maximum over ranks."""

    @abstractmethod
    def gather(self, value: T) -> list[T]:
        """Return every rank's value, in order of rank, on every rank. For small things: O(size) memory."""

    @abstractmethod
    def broadcast(self, value: T, root: int = 0) -> T:
        """Return root's value on every rank; what the others pass is ignored."""

    @abstractmethod
    def exchange(self, rows: np.ndarray, n_sent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Send n_sent[r] of the rows to each rank r, the first of them to rank 0, and so on.

        Args:
            rows: (k, ...), dtype (structured ones too) and trailing shape the same on all ranks.
            n_sent: (size,) int64, of sum k.

        Returns:
            The rows sent here, by source rank, and (size,) int64, how many came from each.
        """

    @abstractmethod
    def post_max(self, value: int) -> Pending:
        """Begin a maximum of one integer over ranks; ``wait`` for it later."""

    @abstractmethod
    def post_send(self, data: np.ndarray, to: int) -> Transfer:
        """Begin to send bytes, (k,) uint8, to another rank; they must not change before they have left."""

    @abstractmethod
    def post_receive(self, data: np.ndarray, source: int) -> Transfer:
        """Begin to receive data, (k,) uint8, from another rank; messages of one rank arrive in order."""

    @abstractmethod
    def barrier(self) -> None:
        """Wait until every rank is here."""

    @abstractmethod
    def abort(self, code: int = FAILED) -> NoReturn:
        """End all ranks now, with this exit code."""

    def close(self) -> None:
        """Release resources; no call may follow."""

    def allgather(self, rows: np.ndarray) -> np.ndarray:
        """Return all ranks' rows, (k, ...) each of any k, in order of rank, on every rank; unpickled."""
        return np.concatenate(self.gather(np.asarray(rows)))

    def collect(self, value: T) -> list[T]:
        """Return every rank's value, in order of rank, on rank 0; nothing on the others."""
        values = self.gather(value)
        return [] if self.rank else values

    def alltoallv(self, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Send parts[r] to rank r, of any length along axis 0; return what ranks sent here, in their order.

        dtype (structured ones too) and trailing shape are the same on all ranks and in all parts.
        """
        n_sent = np.array([len(part) for part in parts], np.int64)
        rows, n_received = self.exchange(np.concatenate(parts), n_sent)
        return np.split(rows, np.cumsum(n_received)[:-1])

    def exscan(self, array: np.ndarray) -> np.ndarray:
        """Return the elementwise sum over the ranks before this one; zeros on rank 0."""
        array = np.asarray(array)
        return sum(self.gather(array)[: self.rank], np.zeros_like(array))

    def on_rank_zero(self, work: Callable[[], T]) -> T:
        """Run work on rank 0 alone and return its result on every rank; all raise a UserError of it."""
        return self.run_or_raise_together(work, on=0)

    def run_or_raise_together(self, work: Callable[[], T], on: int | None = None) -> T:
        """Run work on every rank, or on one for all; if it raises a UserError on any rank, all raise it.

        Any other exception is the rank's own: it ends the run through ``abort``.
        """
        result: T | None = None
        problem: UserError | None = None
        if on is None or on == self.rank:
            try:
                result = work()
            except UserError as found:
                problem = found
        if on is not None:
            result, problem = self.broadcast((result, problem), root=on)
        else:
            # A number first: pickles of all ranks travel only where there is something to tell.
            failed = self.max(np.array([problem is not None], np.int64))[0]
            problem = next((p for p in self.gather(problem) if p is not None), None) if failed else None
        if problem is not None:
            problem.on_all_ranks = True
            raise problem
        return cast(T, result)


class SerialComm(Comm):
    """One rank, alone."""

    rank, size = 0, 1

    def sum(self, array: np.ndarray) -> np.ndarray:
        return np.array(array)

    min = max = sum

    def gather(self, value: Any) -> list:
        return [value]

    def broadcast(self, value: Any, root: int = 0) -> Any:
        return value

    def exchange(self, rows: np.ndarray, n_sent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.array(rows), np.array(n_sent)

    def post_max(self, value: int) -> Pending:
        return Arrived(value)

    def post_send(self, data: np.ndarray, to: int) -> Transfer:
        raise ValueError("one rank, alone, has nobody to send to")

    def post_receive(self, data: np.ndarray, source: int) -> Transfer:
        raise ValueError("one rank, alone, has nobody to receive from")

    def barrier(self) -> None:
        pass

    def abort(self, code: int = FAILED) -> NoReturn:
        flush()
        os._exit(code)


def grid_width(size: int) -> int:
    """Return the width of the grid of ranks closest to a square; ``size`` if no grid saves messages."""
    width = next(w for w in range(math.isqrt(size - 1) + 1, size + 1) if size % w == 0) if size > 1 else 1
    return width if width + size // width < size else size


def flush() -> None:
    """Print what still waits to be printed. A log on a disk that is full must keep no rank from leaving."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()


class Arrived(Pending):
    """A reduction that needed no waiting."""

    def __init__(self, value: int):
        self.value = value

    def wait(self) -> int:
        return self.value
