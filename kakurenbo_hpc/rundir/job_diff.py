"""Comparison of the job in a run directory with the job to resume. Without torch: ``submit`` imports it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from ..config.job import Job
from ..config.yaml import load_yaml
from ..errors import RunDirectoryError


def check_same(written: Path, job: Job) -> None:
    """Compare a written job file with this job.

    Raises:
        RunDirectoryError: they differ, or the file cannot be read.
    """
    try:
        before = load_yaml(written.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        before = None
    if not isinstance(before, dict):
        raise RunDirectoryError(f"{written}: not a job that can be read; give another --run-dir")
    if changes := differences(before, job):
        raise another_job(written.parent, changes)


def differences(before: dict, job: Job) -> list[str]:
    """List the differences between a job's plain values and this job, one clause each."""
    return list(_changes(before, job.as_dict()))


def another_job(where: Path, changes: list[str]) -> RunDirectoryError:
    """Return the error for changes without --allow-changes."""
    return RunDirectoryError(
        f"{where}: holds the run of another job ({', '.join(changes)}); give another --run-dir, or take "
        "the changes "
        "with --resume --allow-changes"
    )


def _changes(before: object, now: object, name: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(k for k in now if k not in before)]:
            yield from _changes(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
    elif before != now:
        yield f"{name} was {before!r}, is {now!r}"
