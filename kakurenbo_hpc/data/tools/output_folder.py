"""Output folder of a data tool: enough free space, and nothing of another data set in it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ...errors import DataError
from ...rundir.atomic_io import write_whole
from ...rundir.path_checks import free_bytes, in_words


def check_space(folder: Path, n_bytes: int) -> None:
    """Check that so many bytes fit on the disk of a folder, which need not exist yet.

    Raises:
        DataError: they do not.
    """
    existing = next(path for path in [folder, *folder.absolute().parents] if os.path.exists(path))
    _, free = free_bytes(existing)
    if n_bytes > free:
        raise DataError(
            f"{folder}: {in_words(n_bytes)} are to be written there, but {in_words(free)} are free; choose a "
            "larger disk"
        )


def claim(folder: Path, name: str, content: dict) -> None:
    """Make the folder with a file that describes what it will hold, or accept one with the same description.

    Args:
        folder: to be filled.
        name: of the description file.
        content: the description.

    Raises:
        DataError: the folder cannot be written to, or holds anything else.
    """
    description, text = folder / name, json.dumps(content) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if description.exists():
            existing = description.read_text(errors="replace")
            if existing != text:
                raise DataError(
                    f"{folder}: holds another set, {existing.strip()}; give another folder, or remove this "
                    "one"
                )
        elif any(folder.iterdir()):
            raise DataError(f"{folder}: not empty, and nothing that was begun here; give another folder")
        else:
            write_whole(description, text)
    except OSError as problem:
        raise DataError(f"{folder}: cannot be written to ({problem.strerror}); give another folder") from None
