"""Start of a rank's program from the environment's copy on this node, which the node's first rank makes.

``python -I -S unpack_environment.py ARCHIVE FOLDER PROGRAM...``; by its path, and with the standard library
alone: every file that it imports is read by all ranks from a shared file system.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys

LAST = "kakurenbo_complete"
"""The last file of the archive: without it, it is cut off."""


class NotUnpacked(Exception):
    """The environment cannot be unpacked here; the message says why, if nobody has said it yet."""


def unpack(archive: str, folder: str) -> str:
    """Return the path of the environment's copy, and make it if it is not there; ranks wait for each other.

    Args:
        archive: made by ``stage_environment``.
        folder: on this node's own disk, perhaps one that others can write to.

    Raises:
        NotUnpacked: it cannot be made.
        OSError: the same, from the disk.
    """
    root = os.path.join(folder, f"kakurenbo-{os.getuid()}")
    os.makedirs(folder, exist_ok=True)
    try:
        os.mkdir(root, 0o700)
    except FileExistsError:
        found = os.lstat(root)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise NotUnpacked(f"{root} belongs to somebody else") from None
    copy = os.path.join(root, os.path.basename(archive).removesuffix(".tar"))
    if _is_whole(copy):
        return copy
    with open(f"{copy}.lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_whole(copy):
                raise NotUnpacked from None  # the rank that held the lock has said why
        if not _is_whole(copy):
            _extract(archive, copy)
    return copy


def _is_whole(copy: str) -> bool:
    """Whether the last file is there, which is also the oldest: cleaners of such folders begin with those."""
    return os.path.exists(os.path.join(copy, LAST))


def _extract(archive: str, folder: str) -> None:
    """Extract the archive into a folder that is there as a whole or not at all."""
    import glob  # here: one rank of a node needs them
    import shutil
    import tarfile

    part = f"{folder}.{os.uname().nodename}.{os.getpid()}.part"
    for left in glob.glob(f"{glob.escape(folder)}.{os.uname().nodename}.*.part"):  # by a rank that was killed
        shutil.rmtree(left, ignore_errors=True)
    trusted = {"filter": "fully_trusted"} if hasattr(tarfile, "data_filter") else {}
    try:
        with tarfile.open(archive, "r:", copybufsize=2**20) as tar:  # type: ignore[call-overload]
            tar.extractall(part, **trusted)
        if not os.path.exists(os.path.join(part, LAST)):
            raise tarfile.ReadError("cut off")
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(part, folder)
    except tarfile.TarError as problem:
        raise NotUnpacked(f"{archive} is damaged ({problem}); remove it") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def main(words: list[str]) -> None:
    """Become the program, with the copy's Python wherever this Python is named.

    Where the copy cannot be made, with this Python: the start takes longer, the run is the same.

    Args:
        words: archive, folder, program, arguments of the program.
    """
    archive, given, *program = words
    folder, node = os.path.expanduser(os.path.expandvars(given)), os.uname().nodename
    if "$" in folder:
        unset = f"stage_environment is {given}, but {node} does not set that variable; give a folder"
        print(f"kakurenbo: {unset}", file=sys.stderr, flush=True)
        sys.exit(2)
    try:
        prefix = os.path.dirname(os.path.dirname(archive))
        copy = unpack(archive, folder)
        python = os.path.join(copy, os.path.relpath(sys.executable, prefix))
        if os.statvfs(copy).f_flag & os.ST_NOEXEC or not os.access(python, os.X_OK):
            raise NotUnpacked(f"{python} cannot be run there (mounted noexec?)")
    except (OSError, NotUnpacked) as problem:
        python = sys.executable
        if str(problem):
            print(f"warning: {node} imports from the shared file system: {problem}", flush=True)
    program = [python if word == sys.executable else word for word in program]
    os.execvp(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
