"""Run directory: checks before a run starts or resumes in it, and its preparation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..config.job import Job
from ..config.yaml import dump_yaml
from ..errors import RunDirectoryError
from .atomic_io import write_whole
from .checkpoint.manifest import load_facts
from .checkpoint.retention import newest_valid, remove_partial, set_aside
from .job_diff import another_job, check_run, differences
from .lock import Lock
from .watchdog import heartbeat


def open_run(
    run: Path, job: Job, resume: bool, lock: Lock, n_ranks: int, allow_changes: bool = False
) -> Path | None:
    """Lock the run directory and find the checkpoint to resume from. On rank 0 only.

    Of an earlier run, only the heartbeats are removed.

    Args:
        run: the run directory.
        job: to run in it.
        resume: resume the run in it.
        lock: of the run directory.
        n_ranks: number of ranks.
        allow_changes: resume another job's run as this job, from the end of an epoch.

    Returns:
        The checkpoint, or None to start from the beginning.

    Raises:
        RunDirectoryError: it holds another job's run, a run without ``resume``, nothing to resume, or an
        active
            run; or it cannot be written to.
    """
    check_run(run, job, resume, allow_changes)
    with writing_to(run):
        run.mkdir(parents=True, exist_ok=True)
        lock.take()
    checkpoint = newest_valid(run / "checkpoints") if (run / "job.yaml").exists() else None
    if checkpoint and not resume:
        raise RunDirectoryError(
            f"{run}: a run is there, checkpointed in {checkpoint.name}; "
            "add --resume, or give another --run-dir"
        )
    if checkpoint and (changes := differences(load_facts(checkpoint)["job"], job)):
        if not allow_changes:
            raise another_job(checkpoint, changes)
        if not all(
            change.startswith("record.") for change in changes
        ):  # what is recorded may change anywhere
            checkpoint = newest_valid(run / "checkpoints", "inside an epoch of the job as it was")
    if checkpoint and job.data.placement == "local":
        checkpoint = _with_places(checkpoint, n_ranks)
    heartbeat.clear(run)
    return checkpoint


def _with_places(checkpoint: Path, n_ranks: int) -> Path | None:
    """Return a checkpoint of node-local data, or an older one if it was taken inside an epoch of other ranks.

    Samples would be placed anew, and step numbers would no longer tell which of them are done.
    """
    facts = load_facts(checkpoint)
    if "steps" not in facts or facts["ranks"] == n_ranks:
        return checkpoint
    why = f"inside an epoch whose samples were on the disks of {facts['ranks']} ranks, which begins anew on"
    whole = newest_valid(checkpoint.parent, f"{why} {n_ranks}")
    begins_at_0 = facts["epoch"] < 0
    return whole if whole or begins_at_0 else checkpoint


def enter_run(run: Path, job: Job, lock: Lock, found: Path | None) -> None:
    """Prepare the run directory for this job. On rank 0 only.

    Args:
        run: the run directory.
        job: to run in it.
        lock: of the run directory, acquired.
        found: the checkpoint to resume from, or None.

    Raises:
        RunDirectoryError: it cannot be written to.
    """
    with writing_to(run):
        lock.sign()
        write_whole(
            run / "job.yaml", dump_yaml(job.as_dict())
        )  # first: all else is a run's only where this is
        (run / "checkpoints").mkdir(exist_ok=True)
        remove_partial(run / "checkpoints")
        set_aside(run / "checkpoints", found)


@contextmanager
def writing_to(run: Path) -> Iterator[None]:
    """Turn an OSError into a RunDirectoryError."""
    try:
        yield
    except OSError as problem:
        raise RunDirectoryError(
            f"{run}: cannot be written to ({problem.strerror}); give another --run-dir"
        ) from None
