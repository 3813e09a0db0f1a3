"""DataLoader workers: start method, blocked signals, exit with the parent rank."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from multiprocessing import connection, forkserver, resource_tracker, util

from ..core.signals import SIGNALS
from ..errors import FAILED

_LONGEST_TEMP_DIR = 107 - len("/pymp-12345678/listener-12345678")  # bytes: a socket's path has at most 107


def forkserver_context(preload: str) -> multiprocessing.context.ForkServerContext:
    """Return the multiprocessing context of the workers.

    Forking a process that runs MPI and its network drivers is undefined, so a server process forks them.

    Args:
        preload: the module that they need, with torch; the server imports it once for all.
    """
    _shorten_socket_paths()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    # In this order, each with signals blocked again: the first call unblocks them.
    for start in (resource_tracker.ensure_running, forkserver.ensure_running):
        with _signals_blocked():
            start()
    return context


def workers_available() -> bool:
    """Return whether workers can run here: their locks need /dev/shm."""
    try:
        multiprocessing.get_context("fork").Lock()
    except OSError:
        return False
    return True


def exit_with_rank(worker: int) -> None:
    """Let a worker exit when its rank does, even if that is killed.

    Otherwise mpirun would wait for the pipes that it keeps open.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(FAILED)

    threading.Thread(target=wait, daemon=True).start()


def _shorten_socket_paths() -> None:
    """Let multiprocessing, here and in processes started here, make its sockets where their paths fit.

    Other temporary files stay in ``TMPDIR``.
    """
    if len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_TEMP_DIR:
        return
    before = tempfile.tempdir
    tempfile.tempdir = next((f for f in ("/tmp", "/var/tmp", "/dev/shm") if os.access(f, os.W_OK)), before)
    try:
        util.get_temp_dir()  # makes the folder that all of them use from now on
    finally:
        tempfile.tempdir = before


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block stop signals in processes that are started here, and in those that they start.

    Batch systems send them to every process of a job. The ranks handle them, and read on until they have
    agreed to stop.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
