"""Lock of a run directory, which refuses a second run in it."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Literal

from ..errors import RunDirectoryError
from .console import print_line
from .watchdog.heartbeat import Beat, read_beats

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_LEASE_S = 120.0  # NFS releases the lock of a lost node after 90 s
_BEATS_S = 25.0  # a run writes at least two heartbeats in this time


Part = Literal["all", "launcher", "ranks"]


class Lock:
    """POSIX lock on the file ``lock``, held by rank 0 during the run and released by the system at its exit.

    A launcher that restarts the ranks holds the first byte for all attempts, their rank 0 the bytes after it:
    whatever becomes of either, a new run is refused until both are gone.

    It works between nodes on NFS, GPFS, and Lustre mounted with flock. The file stays; its text names the
    holder. It must be opened nowhere else in this process: closing any handle on it releases the lock.
    """

    def __init__(self, run: Path, part: Part = "all") -> None:
        """Prepare the lock; ``part`` is what this process is of the run."""
        self._path, self._handle, self._part = run / "lock", -1, part

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, kind: type | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        if self._handle >= 0:
            os.close(self._handle)

    def take(self) -> None:
        """Acquire the lock, in a directory that exists.

        If the holder's heartbeat changes, this run is refused at once; otherwise it waits for the holder. The
        ranks of a launcher wait in any case: the holder is a rank of an older attempt. On a file system
        without locks, only the heartbeat shows another run.

        Raises:
            RunDirectoryError: another run holds it.
            OSError: the file cannot be written.
        """
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            locked = self._acquire(handle)
        except BaseException:
            os.close(handle)
            raise
        if locked:
            if self._part == "launcher":
                fcntl.lockf(handle, fcntl.LOCK_UN, 0, 1)
            self._handle = handle
        else:
            os.close(handle)

    def _acquire(self, handle: int) -> bool:
        """Lock the file; return False if its file system has no locks."""
        before, begun, reported = self._beat(), time.monotonic(), False
        while refused := _refused(handle, start=int(self._part == "ranks")):
            has_locks = refused not in _NO_LOCKS
            holder = os.pread(handle, 1000, 0).decode(errors="replace").strip() or "another process"
            if has_locks and not reported:
                reported = True
                print_line(
                    f"{self._path}: held by {holder}; "
                    f"waiting up to {_LEASE_S:.0f} s for a sign that it lives, or is gone"
                )
            over = time.monotonic() - begun >= (_LEASE_S if has_locks else _BEATS_S)
            lives = self._part != "ranks" and self._beat() not in (before, None)
            if lives or (has_locks and over):
                raise RunDirectoryError(
                    f"{self._path.parent}: a run is under way here, held by {holder}; "
                    "wait for its end, or give another --run-dir"
                )
            if not has_locks and (over or before is None):
                print_line(
                    f"warning: {self._path}: this file system knows no locks; "
                    "take care that no other run is started here"
                )
                return False
            time.sleep(1)
        return True

    def _beat(self) -> Beat | None:
        return read_beats(self._path.parent, 1)[0]

    def sign(self) -> None:
        """Write the holder's process and host into the file; of a launcher's run, the launcher's."""
        if self._handle >= 0 and self._part != "ranks":
            os.truncate(self._handle, 0)
            os.pwrite(self._handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def _refused(handle: int, start: int) -> int | None:
    """Try to lock the file from this byte on.

    Returns:
        The errno if another process holds it or the file system has no locks.
    """
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 0, start)
    except OSError as problem:
        if problem.errno not in (errno.EACCES, errno.EAGAIN, *_NO_LOCKS):
            raise
        return problem.errno
    return None
