"""Atomic writes: temporary file, fsync, rename; for plain and for HDF5 files, also on a full disk."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer


def write_whole(path: Path, content: bytes | str) -> None:
    """Replace a file in one step; after a crash it holds the old content or the new."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    data = content.encode() if isinstance(content, str) else content
    with open(beside, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Hdf5:
    """HDF5 file that gets its name when it is closed; only ``close`` raises the disk's errors.

    Attributes:
        file: the open ``h5py.File``.
    """

    def __init__(self, path: Path) -> None:
        import h5py

        self._path, self._beside = path, Path(f"{path}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._disk = _Disk(self._beside, "w+b")
        except OSError as problem:
            self._disk = _Disk(os.devnull, "w+b")
            self._disk.refused = problem
        self.file = h5py.File(self._disk, "w")

    def close(self) -> None:
        """Sync and rename the file.

        Raises:
            OSError: the disk did not take all of it; the file is removed.
        """
        self.file.close()
        try:
            with self._disk:
                self._disk.sync()
            os.replace(self._beside, self._path)
        except OSError:
            with contextlib.suppress(OSError):
                self._beside.unlink()
            raise


class _Disk(io.FileIO):
    """Raw file that accepts all writes and keeps the disk's first error in ``refused``."""

    refused: OSError | None = None

    def write(self, data: Buffer) -> int:
        view, n = memoryview(data).cast("B"), 0
        while self.refused is None and n < len(view):
            try:
                n += super().write(view[n:])
            except OSError as problem:
                self.refused = problem
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as problem:
            self.refused = self.refused or problem
            return size or 0

    def sync(self) -> None:
        if self.refused is not None:
            raise self.refused
        os.fsync(self.fileno())
