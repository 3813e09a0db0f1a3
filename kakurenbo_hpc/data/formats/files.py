"""Files of a data set as they were downloaded: in a folder, in a tar archive, compressed or not."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from ...errors import DataError

_DAMAGED = (EOFError, tarfile.TarError, zlib.error, gzip.BadGzipFile)


def find_first(root: Path, names: Sequence[str]) -> Path:
    """Return the first of these that exists: ``root`` itself, if it has the name, or below it.

    Args:
        root: what ``data.path`` names.
        names: of folders and files, the preferred one first.

    Raises:
        DataError: there is none.
    """
    if root.name in names and root.exists():
        return root
    for name in names:
        if (root / name).exists():
            return root / name
    raise DataError(
        f"{root}: found none of {', '.join(names)}; data.path must name the folder that holds one of them"
    )


def read_members(place: Path, names: Sequence[str]) -> list[bytes]:
    """Return the contents of these files of a folder or a tar archive.

    Args:
        place: the folder, or the archive, whose members may lie in folders of their own.
        names: without folders.

    Raises:
        DataError: a file is missing, or the archive is damaged.
    """
    if place.is_dir():
        return [read_file(place / name) for name in names]
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(place, "r:*") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if name in names and (file := archive.extractfile(member)) is not None:
                    contents[name] = file.read()
    except (OSError, *_DAMAGED) as problem:
        raise DataError(f"{place}: damaged ({problem}); download it again") from None
    missing = [name for name in names if name not in contents]
    if missing:
        raise DataError(f"{place}: lacks {missing[0]}; download it again")
    return [contents[name] for name in names]


def read_file(path: Path) -> bytes:
    """Return the contents of a file, uncompressed if its name ends in ``.gz``.

    Raises:
        DataError: it cannot be read, or is damaged.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                return file.read()
        return path.read_bytes()
    except _DAMAGED as problem:
        raise DataError(f"{path}: damaged ({problem}); download it again") from None
    except OSError as problem:
        raise DataError(f"{path}: cannot be read ({problem.strerror or problem})") from None
