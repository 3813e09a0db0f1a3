"""A folder that is filled with one data set: ours alone, and large enough before the first file is written."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ...errors import DataError
from ...rundir.atomic_io import write_whole
from ...rundir.path_checks import free_bytes, in_words


def need_room(folder: Path, n_bytes: int) -> None:
    """Raise DataError if so much does not fit on the disk of this folder, which need not be there yet."""
    _, free = free_bytes(
        next(there for there in [folder, *folder.absolute().parents] if os.path.exists(there))
    )
    if n_bytes > free:
        raise DataError(
            f"{folder}: {in_words(n_bytes)} are to be written there, but {in_words(free)} are free; choose a larger disk"
        )


def claim(folder: Path, name: str, content: dict) -> None:
    """Make the folder, with a note of what it will hold, or go on where that note lies already.

    name: of the note. Raises DataError if the folder cannot be written to, or holds anything else.
    """
    note, text = folder / name, json.dumps(content) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if note.exists():
            found = note.read_text(errors="replace")
            if found != text:
                raise DataError(
                    f"{folder}: holds another set, {found.strip()}; give another folder, or remove this one"
                )
        elif any(folder.iterdir()):
            raise DataError(f"{folder}: not empty, and nothing that was begun here; give another folder")
        else:
            write_whole(note, text)
    except OSError as problem:
        raise DataError(f"{folder}: cannot be written to ({problem.strerror}); give another folder") from None
