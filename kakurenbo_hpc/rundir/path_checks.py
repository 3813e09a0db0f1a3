"""Where results are kept: a place that can hold them, out of which nothing leads. Asked before anything is computed or written."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import RunDirectoryError


def check_file(path: Path, option: str) -> None:
    """Raise RunDirectoryError unless a file can be there. option: what the user gives another one by."""
    check_folder(path.parent, option)
    if _is_there(path, option) and not path.is_file():
        raise RunDirectoryError(f"{path}: a folder is there, not a file; give another {option}")


def check_folder(folder: Path, option: str) -> None:
    """Raise RunDirectoryError unless the folder is there, or room for it."""
    there = next(path for path in [folder, *folder.absolute().parents] if _is_there(path, option))
    if not there.is_dir():
        raise RunDirectoryError(f"{there}: a file is there, not a folder; give another {option}")


def check_place(folder: Path, option: str = "--run-dir") -> None:
    """Raise RunDirectoryError unless the folder can be one in which all is kept: no link in it leads out of it.

    What is written to a link is written to wherever it leads, and old checkpoints would be removed there. A folder that is
    a link itself is fine.
    """
    check_folder(folder, option)
    inside = os.path.join(os.path.realpath(folder), "")
    for path in [*folder.glob("*"), *folder.glob("*/*")]:
        if path.is_symlink() and not os.path.realpath(path).startswith(inside):
            raise RunDirectoryError(
                f"{path}: a link to {os.path.realpath(path)}, but what is written here stays here; remove it, or give another {option}"
            )


def _is_there(path: Path, option: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as problem:
        raise RunDirectoryError(
            f"{path}: cannot be used ({problem.strerror}); give another {option}"
        ) from None
    return True


def free_bytes(folder: Path) -> tuple[int, int]:
    """Return which disk the folder is on, as a number, and how many bytes are free there for us."""
    disk = os.statvfs(folder)
    return os.stat(folder).st_dev, disk.f_bavail * disk.f_frsize


def in_words(n: int) -> str:
    """Return a number of bytes as people write it."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n < 1000:
            break
        n /= 1000
    else:
        unit = "TB"
    return f"{n:.4g} {unit}"
