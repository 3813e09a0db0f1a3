"""The run directory: one run's place on disk, and whether a run may begin, or go on, in it."""

from __future__ import annotations

from pathlib import Path

import yaml

from ..errors import RunDirectoryError
from ..job import Job, load_yaml
from .checkpoint import newest_valid
from .files import write_whole

# What may be there before a run begins: what submit wrote, a wish to stop, and where the data lies.
_BEFORE = ("batch", "stop", "manifest")


def open_run(run: Path, job: Job, resume: bool) -> Path | None:
    """Make the run directory ready and return the checkpoint to go on from, or None to begin. On rank 0 alone.

    Raises RunDirectoryError if another job's run is there, if a run is there and ``resume`` was not asked for, if
    nothing is there to resume, or if it cannot be written to.
    """
    written = run / "job.yaml"
    if written.exists():
        check_same(written, job)
    elif resume and not (run / "batch").is_dir():
        raise RunDirectoryError(f"{run}: --resume was given, but no run is there; leave it away to begin one")
    elif run.is_dir() and any(found.name not in _BEFORE for found in run.iterdir()):
        raise RunDirectoryError(f"{run}: not empty, and not a run of ours; give another --run-dir")
    checkpoint = newest_valid(run / "checkpoints") if written.exists() else None
    if checkpoint and not resume:
        raise RunDirectoryError(f"{run}: a run is there, checkpointed in {checkpoint.name}; add --resume, or give another --run-dir")
    try:
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        (run / "stop").unlink(missing_ok=True)  # it asked an earlier run
        write_whole(written, yaml.safe_dump(job.as_dict(), sort_keys=False))
    except OSError as problem:
        raise RunDirectoryError(f"{run}: cannot be written to ({problem.strerror}); give another --run-dir") from None
    return checkpoint


def check_same(written: Path, job: Job) -> None:
    """Raise RunDirectoryError unless the job that is written there is this one."""
    try:
        before = load_yaml(written.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        raise RunDirectoryError(f"{written}: not a job that can be read; give another --run-dir") from None
    changes = list(_changes(before, job.as_dict()))
    if changes:
        shown = ", ".join(changes[:5]) + (", ..." if len(changes) > 5 else "")
        raise RunDirectoryError(f"{written.parent}: holds the run of another job ({shown}); give another --run-dir")


def _changes(before: object, now: object, name: str = ""):
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(k for k in now if k not in before)]:
            yield from _changes(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
    elif before != now:
        yield f"{name} was {before!r}, is {now!r}"
