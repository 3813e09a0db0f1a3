"""Image files of a folder: which there are, and whether their channels fit into bytes."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import DataError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = tuple(".bmp .gif .jfif .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split())


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and in those below it, links followed, without hidden files and folders.

    A link to a folder above itself is passed over: it would be followed without end.

    Raises:
        DataError: a folder cannot be read, or a link leads nowhere.
    """
    yield from _files_below(folder, frozenset(map(str, Path(os.path.realpath(folder)).parents)))


def _files_below(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as problem:
        raise DataError(f"{folder}: cannot be read ({problem.strerror})") from None
    for entry in entries:
        if entry.is_dir():
            yield from _files_below(folder / entry.name, above | {real})
        elif entry.is_file():
            yield folder / entry.name
        elif entry.is_symlink():
            raise DataError(
                f"{folder / entry.name}: cannot be read (a link to {os.readlink(entry.path)}, where nothing "
                "is); remove it, or put it right"
            )


def check_spelling(folder: Path, names: Iterable[str], known: Iterable[str] = ()) -> None:
    """Check that no two names of classes look alike, being written in other code points.

    Systems write é as one code point (NFC) or as two (NFD). Which of them a class is called is for its owner
    to say, so that such names are refused, neither joined nor told apart.

    Args:
        folder: that holds the names.
        names: of folders.
        known: of the classes that they belong to.

    Raises:
        DataError: two do.
    """
    spelled: dict[str, str] = {unicodedata.normalize("NFC", name): name for name in known}
    for name in names:
        other = spelled.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            raise DataError(
                f"{folder / name}: looks like another class, but is spelled {ascii(name)}, not "
                f"{ascii(other)}; give one class one name"
            )


def exceeds_bytes(image: Image.Image) -> bool:
    """Return whether an opened image has more than 8 bits a channel, which Pillow cuts off from colours."""
    if image.mode.startswith(("I", "F")):
        return True
    tiles = getattr(image, "tile", ())
    arguments = tiles[0][3] if tiles else ()
    parts = arguments if isinstance(arguments, tuple) else (arguments,)
    return any(isinstance(part, str) and re.search(";16[BLN]$", part) for part in parts) or (
        image.format == "PPM" and any(isinstance(part, int) and part > 255 for part in parts)
    )
