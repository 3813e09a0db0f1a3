"""Ranks as threads of one process: for laws and tests, which split the same rows over many ranks in milliseconds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NoReturn

import numpy as np

from ..errors import FAILED
from .comm import Arrived, Comm, Pending


class Threads(Comm):
    """One of several ranks that live in threads; made by ``run_in_threads``."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, slots: list):
        self.rank, self.size = rank, size
        self._barrier, self._slots = barrier, slots

    def gather(self, value: Any) -> list:
        self._slots[self.rank] = value
        self._barrier.wait()
        values = list(self._slots)
        self._barrier.wait()  # nobody overwrites a slot before all have read it
        return values

    def sum(self, array: np.ndarray) -> np.ndarray:
        return reduce(np.add, self.gather(np.array(array)))

    def min(self, array: np.ndarray) -> np.ndarray:
        return reduce(np.minimum, self.gather(np.array(array)))

    def max(self, array: np.ndarray) -> np.ndarray:
        return reduce(np.maximum, self.gather(np.array(array)))

    def broadcast(self, value: Any, root: int = 0) -> Any:
        return self.gather(value)[root]

    def alltoallv(self, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.array(sent[self.rank]) for sent in self.gather(list(parts))]

    def post_max(self, value: int) -> Pending:
        return Arrived(max(self.gather(value)))

    def barrier(self) -> None:
        self._barrier.wait()

    def abort(self, code: int = FAILED) -> NoReturn:
        self._barrier.abort()
        raise SystemExit(code)


def run_in_threads(size: int, work: Callable[[Comm], Any]) -> list:
    """Run work(comm) on size ranks at once and return their results in order; the first rank's exception is raised."""
    barrier, slots = threading.Barrier(size), [None] * size
    results: list = [None] * size
    problems: list[BaseException | None] = [None] * size

    def one(rank: int) -> None:
        try:
            results[rank] = work(Threads(rank, size, barrier, slots))
        except BaseException as problem:
            problems[rank] = problem
            barrier.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    raised = [p for p in problems if p is not None]
    if raised:
        raise next((p for p in raised if not isinstance(p, threading.BrokenBarrierError)), raised[0])
    return results
