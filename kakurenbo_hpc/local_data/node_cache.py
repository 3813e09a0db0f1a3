"""A rank's shard on its node's own disk: copies of files of the shared file system, each complete or absent.

A cache is a folder, ``SCRATCH/kakurenbo/NAME-MARK/rank_0003``, with a note that names its data set. A copy
has the size and modification time of its original, and is recognised by them. Files of a cache may vanish
at any time, since every file can be fetched again. Only files of its own data set are ever removed.
"""

from __future__ import annotations

import fcntl
import filecmp
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..data.dataset import SampleFiles
from ..data.read_at import OpenFiles
from ..data.retry import retry
from ..errors import DataError

_NOTE = "kakurenbo.json"
_SECOND = 10**9  # ns; not every file system of a node keeps less than whole seconds
_THREADS = 4  # a shared file system answers several readers faster than one


class NodeCache:
    """One rank's folder, of files with the names that they have on the shared file system."""

    def __init__(self, folder: Path, fingerprint: str):
        """Open or create it, for this process alone.

        Args:
            folder: of this rank.
            fingerprint: of the data set.

        Raises:
            DataError: it cannot be written to, holds files of another data set or unknown ones, or is in use.
        """
        self.folder = folder
        note = folder / _NOTE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not note.exists() and any(folder.iterdir()):
                raise DataError(
                    f"{folder}: not empty, and not staged by kakurenbo; give another scratch folder, or "
                    "remove this one"
                )
            self._lock = open(note, "a+")  # noqa: SIM115, locked until the process ends
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"{folder}: in use by another run; wait for its end, or give another scratch folder"
            ) from None
        except OSError as problem:
            raise DataError(
                f"{folder}: cannot be written to ({problem.strerror}); give a scratch folder that can"
            ) from None
        self._lock.seek(0)
        text = self._lock.read()
        if not text:
            json.dump({"data": fingerprint}, self._lock)
            self._lock.flush()
        elif text != json.dumps({"data": fingerprint}):
            raise DataError(
                f"{folder}: holds files of another data set; remove it, or give another scratch folder"
            )

    def keep(self, names: Iterable[str], known: Iterable[str]) -> None:
        """Remove all known files except these, and all partial files; files of other names stay."""
        kept = {str(self.folder / name) for name in names}
        known = {str(self.folder / name) for name in known}
        for folder, _, found in os.walk(self.folder):
            for name in found:
                path = os.path.join(folder, name)
                if path not in kept and path.removesuffix(".part") in known:
                    os.unlink(path)

    def drop(self, names: Iterable[str]) -> None:
        """Remove these files."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def partial_path(self, name: str) -> Path:
        """Return the path of a file that is being written; its folder exists."""
        path = self.folder / f"{name}.part"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def commit(self, name: str, changed: int) -> None:
        """Give a complete partial file its name, and its original's modification time in ns."""
        partial = self.partial_path(name)
        os.utime(partial, ns=(changed, changed))
        os.replace(partial, self.folder / name)

    def missing_rows(self, files: SampleFiles, rows: Iterable[int], compare: bool = False) -> list[int]:
        """Return the rows whose files are missing, or with ``compare``, differ from the shared ones."""

        def is_cached(row: int) -> bool:
            name = files.names[row]
            return self._holds(name, int(files.sizes[row]), int(files.changed[row])) and not (
                compare and not self._equals(files, row)
            )

        rows = list(rows)
        with ThreadPoolExecutor(_THREADS) as pool:
            return [row for row, cached in zip(rows, pool.map(is_cached, rows), strict=True) if not cached]

    def fetch(self, files: SampleFiles, rows: Iterable[int]) -> Iterator[int]:
        """Copy these rows' files from the shared file system, several at a time; yield each one's size.

        Raises:
            DataError: a file is missing or of another size, or the disk is full.
        """
        shared = OpenFiles()

        def copy(row: int) -> int:
            name, size = files.names[row], int(files.sizes[row])
            if files.packed is None:
                self._copy(files.root / name, name, size)
            else:
                self._unpack(files, row, shared)
            return size

        with ThreadPoolExecutor(_THREADS) as pool:
            yield from pool.map(copy, rows)

    def _holds(self, name: str, size: int, changed: int) -> bool:
        try:
            found = (self.folder / name).stat()
        except OSError:
            return False
        return found.st_size == size and found.st_mtime_ns // _SECOND == changed // _SECOND

    def _copy(self, source: Path, name: str, size: int) -> None:
        partial = self.partial_path(name)
        try:
            changed = retry(lambda: _copy_contents(source, partial))
            found = partial.stat().st_size
            if found != size:
                partial.unlink()
                raise DataError(
                    f"{source}: {found} bytes were copied, but {size} were expected; was the data set "
                    "changed?"
                )
            self.commit(name, changed)
        except OSError as problem:
            raise DataError(f"{source}: cannot be copied to {self.folder} ({problem.strerror})") from None

    def _unpack(self, files: SampleFiles, row: int, shared: OpenFiles) -> None:
        """Write a packed sample to a file of its own."""
        source, offset = files.source(row)
        name, size = files.names[row], int(files.sizes[row])
        partial = self.partial_path(name)
        try:
            partial.write_bytes(retry(lambda: shared.read(source, size, offset)))
            self.commit(name, int(files.changed[row]))
        except OSError as problem:
            raise DataError(
                f"{source}, {name}: cannot be copied to {self.folder} ({problem.strerror or problem})"
            ) from None

    def _equals(self, files: SampleFiles, row: int) -> bool:
        """Return whether a cached file equals the shared one, byte for byte."""
        source, offset = files.source(row)
        cached = self.folder / files.names[row]
        if files.packed is None:
            return filecmp.cmp(source, cached, shallow=False)
        return OpenFiles().read(source, int(files.sizes[row]), offset) == cached.read_bytes()


def _copy_contents(source: Path, target: Path) -> int:
    """Copy a file; return the source's modification time in ns, read before the copy."""
    changed = source.stat().st_mtime_ns
    shutil.copyfile(source, target)
    return changed
