"""The lock of a run directory: of two runs that are started in one, the second is refused."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from pathlib import Path
from types import TracebackType

from ..errors import RunDirectoryError
from .console import print_line
from .watchdog.heartbeat import Beat, read_beats

_KNOWS_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_LEASE_S = 120.0  # NFS gives a lock back only 90 s after it has lost the node that held it
_BEATS_S = 25.0  # in which a run writes its heartbeat at least twice


class Lock:
    """Held by rank 0 while it runs: the system releases it when the process ends, however it does; NFS, when it has missed its node.

    A POSIX lock on the file ``lock``, which network file systems carry from node to node (NFS, GPFS, and Lustre where it is
    mounted with flock). The file stays; what is written in it names the holder. It is opened nowhere else in
    this process: to close any handle on it would release it.
    """

    def __init__(self, run: Path):
        self._path, self._handle = run / "lock", -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, kind: type | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        if self._handle >= 0:
            os.close(self._handle)

    def take(self) -> None:
        """Take it, in a directory that is there. Raises RunDirectoryError if another run has it, OSError if it cannot be written.

        A holder whose heartbeat moves is a run, and this one is refused at once; from any other it is waited for. Where the file system
        knows no locks, the heartbeat alone can tell.
        """
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            locked = self._locked(handle)
        except BaseException:
            os.close(handle)
            raise
        if locked:
            self._handle = handle
        else:
            os.close(handle)

    def _locked(self, handle: int) -> bool:
        """Lock the file; return False if its file system knows no locks."""
        before, begun, told = self._beat(), time.monotonic(), False
        while refused := _refused(handle):
            knows_locks = refused not in _KNOWS_NO_LOCKS
            holder = os.pread(handle, 1000, 0).decode(errors="replace").strip() or "another process"
            if knows_locks and not told:
                told = True
                print_line(
                    f"{self._path}: held by {holder}; waiting up to {_LEASE_S:.0f} s for a sign that it lives, or is gone"
                )
            over = time.monotonic() - begun >= (_LEASE_S if knows_locks else _BEATS_S)
            if self._beat() not in (before, None) or (knows_locks and over):
                raise RunDirectoryError(
                    f"{self._path.parent}: a run is under way here, held by {holder}; wait for its end, or give another --run-dir"
                )
            if not knows_locks and (over or before is None):
                print_line(
                    f"warning: {self._path}: this file system knows no locks; take care that no other run is started here"
                )
                return False
            time.sleep(1)
        return True

    def _beat(self) -> Beat | None:
        return read_beats(self._path.parent, 1)[0]

    def sign(self) -> None:
        """Write who holds it."""
        if self._handle >= 0:
            os.truncate(self._handle, 0)
            os.pwrite(self._handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def _refused(handle: int) -> int | None:
    """Try to lock the file; return the number of the error if another process has it, or if its file system knows no locks."""
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        if problem.errno not in (errno.EACCES, errno.EAGAIN, *_KNOWS_NO_LOCKS):
            raise
        return problem.errno
    return None
