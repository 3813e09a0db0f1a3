"""Batch jobs: what one submit command hands over, a run, or several as the tasks of an array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ..config.job import Job
from ..config.yaml import dump_yaml
from ..errors import UserError
from ..rundir.atomic_io import write_whole
from .schedulers import open_scheduler
from .schedulers.commands import Refusal
from .script import Script
from .submission import BatchFolder, Submission


class BatchRun(NamedTuple):
    """One run of a batch job. files: what its batch folder needs beside the script, by name."""

    batch: BatchFolder
    job: Job
    submission: Submission
    files: dict[str, str]


class BatchJob(NamedTuple):
    """A script, and the runs that it is of: one, or the tasks of an array.

    Attributes:
        script: as its ``runs`` say, an array.
        runs: in the order of the tasks.
        limit: how many tasks may run at a time; None for all.
    """

    script: Script
    runs: tuple[BatchRun, ...]
    limit: int | None = None

    @property
    def array_options(self) -> list[str]:
        """Options of the submit command for an array; none for a run."""
        if not self.script.runs:
            return []
        return open_scheduler(self.script.machine.scheduler).array_options(len(self.runs), self.limit)


def run_files(job: Job, script: Script) -> dict[str, str]:
    """Return the files of a run's batch folder beside its script."""
    return {
        "job.yaml": dump_yaml(job.as_dict()),
        "machine.yaml": dump_yaml(script.machine.model_dump(mode="json")),
    }


def submit_job(job: BatchJob, dependency: str | None, environment: Mapping[str, str]) -> list[str]:
    """Write the files of a batch job, submit it and return the job id of each of its runs.

    Raises:
        Refusal: the batch system refuses it; no new folder is left behind.
        UserError: a folder cannot be written to, or it is not known whether the job was accepted.
    """
    scheduler, prepared = open_scheduler(job.script.machine.scheduler), []
    try:
        for run in job.runs:
            prepared.append(run.batch)
            run.batch.prepare(run.submission, run.files)
        folder = BatchFolder(job.script.run).folder
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "script.sh", job.script.text())
        job_id = scheduler.submit(folder, dependency, environment, job.array_options)
    except Refusal:
        for batch in reversed(prepared):
            batch.undo()
        raise
    except OSError as problem:
        raise UserError(
            f"{job.script.run}: cannot be written to ({problem.strerror}); give another --run-dir"
        ) from None
    is_array = bool(job.script.runs)
    job_ids = [scheduler.task_id(job_id, index) if is_array else job_id for index in range(len(job.runs))]
    for run, own_id in zip(job.runs, job_ids, strict=True):
        run.batch.add_job(own_id)
    return job_ids


def as_jobs(script: Script, runs: Sequence[BatchRun], limit: int | None) -> list[BatchJob]:
    """Return runs of one size as an array, or one by one where they are one, or there are no arrays.

    Args:
        script: of the array; ``run`` is the folder of all runs.
        runs: the runs.
        limit: how many may run at a time.

    Raises:
        UserError: there is a limit, but the batch system has no arrays.
    """
    has_arrays = bool(open_scheduler(script.machine.scheduler).array_variable)
    if limit is not None and not has_arrays:
        raise UserError(f"{script.machine.scheduler} has no arrays here: leave out the % and what follows it")
    if len(runs) > 1 and has_arrays:
        own = replace(script, runs=tuple(run.batch.run for run in runs))
        return [BatchJob(own, tuple(runs), limit)]
    return [BatchJob(replace(script, name=run.submission.name, run=run.batch.run), (run,)) for run in runs]
