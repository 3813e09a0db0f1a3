"""Where the files that travel with the package are: in it when installed, beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

from .errors import JobError, nearest

_PACKAGE = Path(__file__).resolve().parent


def jobs_dir() -> Path:
    """Return the folder of the jobs that come with the package."""
    return _place("jobs")


def launch_dir() -> Path:
    """Return the folder of machine files and constraints."""
    return _place("launch")


def find_job(name: str) -> Path:
    """Return a job file as it is named, or one that comes with the package: ``digits_kakurenbo``, ``jobs/digits_kakurenbo.yaml``.

    Raises JobError, naming the nearest, if there is neither.
    """
    given = Path(name)
    if given.exists():
        return given
    shipped = jobs_dir() / given.with_suffix(".yaml").name
    if len(given.parts) <= 2 and given.parts[:-1] in ((), ("jobs",)) and shipped.is_file():
        return shipped
    known = [path.stem for path in jobs_dir().glob("*.yaml")]
    raise JobError(f"{name}: no such job file, and no job of that name comes with the package; {nearest(given.stem, known)}")


def _place(name: str) -> Path:
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name
