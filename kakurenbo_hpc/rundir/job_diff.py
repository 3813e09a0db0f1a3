"""Whether the job that a run directory holds is the one that is to go on in it. It needs no torch: ``submit`` asks as well."""

from __future__ import annotations

from pathlib import Path

import yaml

from ..config.job import Job
from ..config.yaml import load_yaml
from ..errors import RunDirectoryError


def check_same(written: Path, job: Job) -> None:
    """Raise RunDirectoryError unless the job that is written there is this one."""
    try:
        before = load_yaml(written.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        before = None
    if not isinstance(before, dict):
        raise RunDirectoryError(f"{written}: not a job that can be read; give another --run-dir")
    if changes := differences(before, job):
        raise another_job(written.parent, changes)


def differences(before: dict, job: Job) -> list[str]:
    """Return what differs between a job's plain values and this job, one clause each."""
    return list(_changes(before, job.as_dict()))


def another_job(where: Path, changes: list[str]) -> RunDirectoryError:
    """Return what is to be raised where these changes were not asked for."""
    return RunDirectoryError(
        f"{where}: holds the run of another job ({', '.join(changes)}); give another --run-dir, or take the changes with "
        "--resume --allow-changes"
    )


def _changes(before: object, now: object, name: str = ""):
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(k for k in now if k not in before)]:
            yield from _changes(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
    elif before != now:
        yield f"{name} was {before!r}, is {now!r}"
