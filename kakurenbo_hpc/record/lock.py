"""The lock of a run directory: of two runs that are started in one, the second is refused."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType

from ..errors import RunDirectoryError

_KNOWS_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Lock:
    """Held by rank 0 while it runs, and never longer: the system releases it when the process ends, however it does.

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
        """Take it, in a directory that is there. Raises RunDirectoryError if another run has it, OSError if it cannot be written."""
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            holder = os.read(handle, 1000).decode(errors="replace").strip() or "another process"
            os.close(handle)
            if problem.errno in _KNOWS_NO_LOCKS:
                print(f"warning: {self._path}: this file system knows no locks; take care that no other run is started here", flush=True)
                return
            if problem.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise RunDirectoryError(
                f"{self._path.parent}: a run is under way here, held by {holder}; wait for its end, or give another --run-dir"
            ) from None
        self._handle = handle

    def sign(self) -> None:
        """Write who holds it."""
        if self._handle >= 0:
            os.truncate(self._handle, 0)
            os.pwrite(self._handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
