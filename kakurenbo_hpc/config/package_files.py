"""Data files of the package: inside it when installed, beside it in a checkout."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import JobError, nearest

_PACKAGE = Path(__file__).resolve().parents[1]


def jobs_dir() -> Path:
    """Return the folder of the package's job files."""
    return _data_dir("jobs")


def launch_dir() -> Path:
    """Return the folder of machine files and constraints."""
    return _data_dir("launch")


def find_job(name: str) -> Path:
    """Find a job file by path, or one of the package by name.

    Args:
        name: a path, or ``digits_kakurenbo`` or ``jobs/digits_kakurenbo.yaml`` for a job of the package.

    Raises:
        JobError: there is neither; names the nearest known job.
    """
    # os.path: a name too long for the file system is no file; Path.is_file would raise.
    if os.path.isfile(name):
        return Path(name)
    shipped = {str(path.relative_to(jobs_dir()).with_suffix("")): path for path in jobs_dir().rglob("*.yaml")}
    plain = name.removeprefix("jobs/").removesuffix(".yaml")
    if plain in shipped:
        return shipped[plain]
    known = nearest(Path(plain).name, shipped)
    raise JobError(f"{name}: no such job file, and no job of that name comes with the package; {known}")


def _data_dir(name: str) -> Path:
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name
