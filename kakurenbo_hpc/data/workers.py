"""Processes that read for a rank: how they begin, what they never hear, and that they end with it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import connection, forkserver, resource_tracker

from ..core.signals import SIGNALS
from ..errors import FAILED


def forkserver_context(preload: str):
    """Return the context that starts them: a fork of a process that runs MPI and its network drivers is undefined.

    preload: the module that they need, with torch; it is imported once, not once a process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    for start in (
        resource_tracker.ensure_running,
        forkserver.ensure_running,
    ):  # once a process; the first unblocks what it blocks
        with _signals_blocked():
            start()
    return context


def can_be() -> bool:
    """Return whether they can talk here: their locks lie in /dev/shm."""
    try:
        multiprocessing.get_context("fork").Lock()
    except OSError:
        return False
    return True


def end_with_the_rank(worker: int) -> None:
    """Let a loader process end when its rank does, even by a kill; it would keep the rank's pipes open, and mpirun waits for those."""

    def wait() -> None:
        connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(FAILED)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Let processes that are started here, and those that they start, never hear what asks a run to leave.

    Batch systems send it to every process of a job; the ranks, which heed it, read on until they have agreed to leave.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
