"""The run directory: one run's place on disk, and whether a run may begin, or go on, in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from ..config.job import Job
from ..errors import RunDirectoryError
from .atomic_io import write_whole
from .checkpoint.manifest import clear, load_facts, newest_valid, set_aside
from .job_diff import another_job, check_same, differences
from .lock import Lock
from .watchdog import heartbeat

# What may be there before a run begins: what submit wrote, a wish to stop, where the data lies, and what a start leaves that fails early.
_BEFORE = ("batch", "stop", "manifest", "lock", "heartbeat", ".job.yaml.*.part")


def open_run(run: Path, job: Job, resume: bool, lock: Lock, allow_changes: bool = False) -> Path | None:
    """Lock the run directory and return the checkpoint to go on from, or None to begin. On rank 0 alone.

    No run in it is changed yet: only the heartbeats of an earlier start are removed, so that those of this one can be told from them.

    allow_changes: another job's run may be there; it goes on, as this job, from the end of an epoch.
    Raises RunDirectoryError if another job's run is there, if a run is there and ``resume`` was not asked for, if nothing is
    there to resume, if a run is under way there, or if it cannot be written to.
    """
    written = run / "job.yaml"
    if written.exists():
        if not allow_changes:
            check_same(written, job)
    elif resume and not any((run / started).exists() for started in ("batch", "lock")):
        raise RunDirectoryError(f"{run}: --resume was given, but no run is there; leave it away to begin one")
    elif run.is_dir() and not all(any(found.match(ours) for ours in _BEFORE) for found in run.iterdir()):
        raise RunDirectoryError(f"{run}: not empty, and not a run of ours; give another --run-dir")
    with writing_to(run):
        run.mkdir(parents=True, exist_ok=True)
        lock.take()
    checkpoint = newest_valid(run / "checkpoints") if written.exists() else None
    if checkpoint and not resume:
        raise RunDirectoryError(
            f"{run}: a run is there, checkpointed in {checkpoint.name}; add --resume, or give another --run-dir"
        )
    if checkpoint and (changes := differences(load_facts(checkpoint)["job"], job)):
        if not allow_changes:
            raise another_job(checkpoint, changes)
        if not all(
            change.startswith("record.") for change in changes
        ):  # what is recorded may change anywhere
            checkpoint = newest_valid(run / "checkpoints", whole_epochs=True)
    heartbeat.clear(run)
    return checkpoint


def enter_run(run: Path, job: Job, lock: Lock, found: Path | None) -> None:
    """Make the run directory ready for this job. On rank 0 alone. Raises RunDirectoryError if it cannot be written to.

    found: the checkpoint to go on from, or None.
    """
    with writing_to(run):
        lock.sign()
        write_whole(
            run / "job.yaml", yaml.safe_dump(job.as_dict(), sort_keys=False)
        )  # first: all else is a run's only where this is
        (run / "checkpoints").mkdir(exist_ok=True)
        clear(run / "checkpoints")
        set_aside(run / "checkpoints", found)


@contextmanager
def writing_to(run: Path) -> Iterator[None]:
    """Turn what a disk refuses into a RunDirectoryError."""
    try:
        yield
    except OSError as problem:
        raise RunDirectoryError(
            f"{run}: cannot be written to ({problem.strerror}); give another --run-dir"
        ) from None
