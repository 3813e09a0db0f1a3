"""Communicator of threads in one process, for tests with many ranks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import reduce
from queue import Empty, SimpleQueue
from typing import Any, NoReturn

import numpy as np

from ..errors import FAILED
from .comm import Arrived, Comm, Pending, Transfer


class ThreadComm(Comm):
    """One of several ranks that live in threads; made by ``run_in_threads``."""

    def __init__(
        self, rank: int, size: int, barrier: threading.Barrier, slots: list, boxes: list[list[SimpleQueue]]
    ):
        self.rank, self.size = rank, size
        self._barrier, self._slots, self._boxes = barrier, slots, boxes

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

    def exchange(self, rows: np.ndarray, n_sent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ends = np.cumsum(n_sent)
        arrived = [
            sent[stops[self.rank] - n[self.rank] : stops[self.rank]]
            for sent, n, stops in self.gather((rows, n_sent, ends))
        ]
        # Copied before any sender goes on to change its rows.
        received = np.concatenate(arrived), np.array([len(part) for part in arrived], np.int64)
        self._barrier.wait()
        return received

    def post_max(self, value: int) -> Pending:
        return Arrived(max(self.gather(value)))

    def post_send(self, data: np.ndarray, to: int) -> Transfer:
        self._boxes[to][self.rank].put(data.copy())
        return _Gone()

    def post_receive(self, data: np.ndarray, source: int) -> Transfer:
        return _Coming(data, self._boxes[self.rank][source], self._barrier)

    def barrier(self) -> None:
        self._barrier.wait()

    def abort(self, code: int = FAILED) -> NoReturn:
        self._barrier.abort()
        raise SystemExit(code)


class _Gone(Transfer):
    def done(self) -> bool:
        return True

    def wait(self) -> None:
        pass


class _Coming(Transfer):
    """A receive that takes the next message of its sender; receives complete in the order of posting."""

    def __init__(self, data: np.ndarray, box: SimpleQueue, barrier: threading.Barrier):
        self._data, self._box, self._barrier, self._here = data, box, barrier, False

    def done(self) -> bool:
        if not self._here:
            try:
                self._data[:] = self._box.get_nowait()
                self._here = True
            except Empty:
                pass
        return self._here

    def wait(self) -> None:
        while not self.done():
            if self._barrier.broken:
                raise threading.BrokenBarrierError
            time.sleep(1e-4)


def run_in_threads(size: int, work: Callable[[Comm], Any]) -> list:
    """Run work(comm) on ranks in threads and return their results in order; raises the first exception."""
    barrier, slots = threading.Barrier(size), [None] * size
    boxes: list[list[SimpleQueue]] = [[SimpleQueue() for _ in range(size)] for _ in range(size)]
    results: list = [None] * size
    problems: list[BaseException | None] = [None] * size

    def one(rank: int) -> None:
        try:
            results[rank] = work(ThreadComm(rank, size, barrier, slots, boxes))
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
