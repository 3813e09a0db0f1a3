"""The Python environment packed into one file, from which each node makes a copy on its own disk.

A rank that imports torch looks for and opens thousands of small files; on a shared file system, thousands of
ranks wait for each other there. One file is read once a node instead.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import sys
import sysconfig
import tarfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..rundir.console import print_line
from . import unpack_environment
from .machine import Machine

_ARCHIVES = ".staged"
"""Folder of the packed file, inside the environment."""

_BUFFER = 2**20  # bytes; 16 KB, the library's own, are many small writes to a parallel file system


def pack_environment(machine: Machine) -> Machine:
    """Pack this environment, unless it is packed already, for a machine with ``stage_environment``.

    Returns:
        The machine; without ``stage_environment`` if there is no room: ranks start all the same.

    Raises:
        UserError: this Python is of no environment.
    """
    if machine.stage_environment is None:
        return machine
    prefix, archive, begun = Path(sys.prefix), _archive(), time.monotonic()
    try:
        if _pack(prefix, archive):
            size, seconds = archive.stat().st_size / 1e9, time.monotonic() - begun
            print_line(f"{prefix}: packed into {archive.name}, {size:.1f} GB, in {seconds:.0f} s")
            left_out = [*_editable(), *_of_base(prefix)]
            if left_out:
                print_line(f"  ranks import from where they are: {', '.join(left_out)}")
    except OSError as problem:
        print_line(f"warning: {prefix}: cannot be packed ({problem}), so ranks import from it as it is")
        return machine.model_copy(update={"stage_environment": None})
    return machine


def staged_command(machine: Machine, command: list[str]) -> list[str]:
    """Return the command of each rank, started from the copy on its node if the machine wants one.

    Raises:
        UserError: this Python is of no environment.
    """
    if machine.stage_environment is None:
        return command
    # -I -S: neither the user's modules nor the environment's, which would be read from the shared disk.
    unpack = [sys.executable, "-I", "-S", unpack_environment.__file__]
    return [*unpack, str(_archive()), machine.stage_environment, *command]


def _archive() -> Path:
    """Return the path of this environment's packed file; another one whenever a package has changed."""
    prefix = Path(sys.prefix)
    marks = [prefix / "pyvenv.cfg", prefix / "conda-meta"]
    if not any(mark.exists() for mark in marks):
        raise UserError(
            f"stage_environment is set, but this Python is the system's ({prefix}), not one of an "
            "environment; make one with python -m venv, or remove stage_environment"
        )
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *map(str, marks)}
    facts = [sys.version, str(prefix), *(fact for place in sorted(places) for fact in _facts(Path(place)))]
    fingerprint = hashlib.sha256("\n".join(facts).encode(errors="surrogateescape")).hexdigest()
    return prefix / _ARCHIVES / f"{fingerprint[:16]}.tar"


def _facts(place: Path) -> Iterator[str]:
    """Yield what changes with each package that is installed or removed, without a look into all files."""
    if not place.is_dir():
        paths = [place] if place.exists() else []
    else:
        paths = sorted(path for path in place.iterdir() if path.name != "__pycache__")
    for path in paths:
        is_record = path.is_file() or path.name.endswith("-info")
        yield f"{path} {path.lstat().st_mtime_ns if is_record else ''}"


def _pack(prefix: Path, archive: Path) -> bool:
    """Pack the environment and remove older packs; return whether there was anything to do."""
    if archive.exists():
        return False
    archive.parent.mkdir(exist_ok=True)
    with open(archive.parent / "lock", "w", encoding="utf-8") as lock:
        # Without locks, one of two launches at once may fail to pack; its ranks start all the same.
        with contextlib.suppress(OSError):
            fcntl.lockf(lock, fcntl.LOCK_EX)
        if archive.exists():
            return False
        for old in archive.parent.glob("*.tar*"):
            old.unlink(missing_ok=True)
        part = archive.with_name(f"{archive.name}.{os.getpid()}.part")
        try:
            with open(part, "wb") as file:
                _write(prefix, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, archive)
        finally:
            part.unlink(missing_ok=True)
    return True


def _write(prefix: Path, file: io.BufferedWriter) -> None:
    # Without compression: a node reads faster from a parallel file system than a core decompresses.
    options: Any = {"format": tarfile.PAX_FORMAT, "copybufsize": _BUFFER}  # the latter has no type
    with tarfile.open(fileobj=file, mode="w", **options) as tar:
        tar.add(prefix, ".", filter=lambda item: None if item.name == f"./{_ARCHIVES}" else item)
        tar.addfile(tarfile.TarInfo(unpack_environment.LAST))


def _editable() -> list[str]:
    """Return the packages that are installed as links to a checkout."""
    names = []
    for package in metadata.distributions(path=[sysconfig.get_path("purelib")]):
        origin = json.loads(package.read_text("direct_url.json") or "{}")
        if origin.get("dir_info", {}).get("editable"):
            names.append(f"{package.metadata['Name']} ({origin['url']})")
    return sorted(names)


def _of_base(prefix: Path) -> list[str]:
    """Return the packages of the Python that a virtual environment is made of, if it sees them."""
    config = prefix / "pyvenv.cfg"
    text = config.read_text(encoding="utf-8") if config.exists() else ""
    return [f"packages of {sys.base_prefix}"] * ("include-system-site-packages = true" in text)
