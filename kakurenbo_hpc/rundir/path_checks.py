"""Checks of output paths before anything is computed or written; free space."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import RunDirectoryError


def check_file(path: Path, option: str) -> None:
    """Raise RunDirectoryError unless a file can be written there; ``option`` is the one that names it."""
    check_folder(path.parent, option)
    if _is_there(path, option) and not path.is_file():
        raise RunDirectoryError(f"{path}: a folder is there, not a file; give another {option}")


def check_folder(folder: Path, option: str) -> None:
    """Raise RunDirectoryError unless the folder exists or can be created."""
    there = next(path for path in [folder, *folder.absolute().parents] if _is_there(path, option))
    if not there.is_dir():
        raise RunDirectoryError(f"{there}: a file is there, not a folder; give another {option}")


def check_place(folder: Path, option: str = "--run-dir") -> None:
    """Raise RunDirectoryError if a link inside the folder leads out of it.

    Files would be written, and old checkpoints removed, at its target. The folder itself may be a link.
    """
    check_folder(folder, option)
    inside = os.path.join(os.path.realpath(folder), "")
    for path in [*folder.glob("*"), *folder.glob("*/*")]:
        if path.is_symlink() and not os.path.realpath(path).startswith(inside):
            raise RunDirectoryError(
                f"{path}: a link to {os.path.realpath(path)}, but what is written here "
                f"stays here; remove it, or give another {option}"
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
    """Return the device number of the folder's file system and the bytes free for this user."""
    disk = os.statvfs(folder)
    return os.stat(folder).st_dev, disk.f_bavail * disk.f_frsize


def in_words(n: int) -> str:
    """Format a number of bytes with its unit."""
    size = float(n)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"
