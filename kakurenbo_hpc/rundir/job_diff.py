"""Checks of a run directory before a run begins or resumes there. Without torch, for the launcher."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from ..config.job import Job
from ..config.yaml import load_yaml
from ..errors import RunDirectoryError

# Allowed before a run starts: files of submit and the doctor, a stop request, the data's manifest, files of a
# failed start.
_BEFORE = (
    "batch",
    "stop",
    "manifest",
    "lock",
    "attempt",
    "exits.jsonl",
    "heartbeat",
    "preflight.json",
    ".job.yaml.*.part",
)


def check_run(run: Path, job: Job, resume: bool, allow_changes: bool = False) -> None:
    """Check, before anything is written, whether a run may begin or resume in a directory.

    Raises:
        RunDirectoryError: it holds another job's run, or something else than a run, or nothing to resume.
    """
    written = run / "job.yaml"
    if written.exists():
        if not allow_changes:
            check_same(written, job)
    elif resume and not any((run / started).exists() for started in ("batch", "lock")):
        raise RunDirectoryError(f"{run}: --resume was given, but no run is there; leave it away to begin one")
    elif run.is_dir() and not all(any(found.match(ours) for ours in _BEFORE) for found in run.iterdir()):
        raise RunDirectoryError(f"{run}: not empty, and not a run of ours; give another --run-dir")


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
    """List the differences between a job's plain values and this job, one clause each.

    Accumulation of a given global batch is none: like the number of ranks, it only says how that is cut.
    """
    changes = list(_changes(before, job.as_dict()))
    if job.training.global_batch is not None:
        return [change for change in changes if not change.startswith("training.accumulate was ")]
    return changes


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
