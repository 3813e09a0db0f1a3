"""Positioned reads of files, and a cache of open files for them."""

from __future__ import annotations

import os
from io import FileIO
from pathlib import Path


def read_at(handle: int, into: memoryview, offset: int, what: str, n_more: int = 0) -> None:
    """Fill memory with the bytes of an open file from an offset on.

    Args:
        handle: of the file.
        into: bytes to fill.
        offset: in bytes.
        what: is read, for the message.
        n_more: bytes that must follow these.

    Raises:
        OSError: the file ends before, or cannot be read.
    """
    while into:
        n = os.preadv(handle, [into], offset)
        if n == 0:
            raise OSError(f"{what} ends {len(into) + n_more} bytes early")
        into, offset = into[n:], offset + n


class OpenFiles:
    """Files that stay open once they were read. A copy in another process opens its own."""

    def __init__(self) -> None:
        self._files: dict[Path, FileIO] = {}

    def read(self, path: Path, size: int, offset: int) -> bytearray:
        """Return bytes of a file; threads may do so at the same time.

        Raises:
            OSError: it ends before, or cannot be read.
        """
        file = self._files.get(path) or self._files.setdefault(path, FileIO(path))
        content = bytearray(size)
        read_at(file.fileno(), memoryview(content), offset, "the file")
        return content

    def __getstate__(self) -> dict:
        return {"_files": {}}
