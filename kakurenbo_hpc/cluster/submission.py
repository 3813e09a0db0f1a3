"""The folder ``batch`` of a run directory: what was submitted for the run, and the state of its jobs.

It holds ``script.sh``, ``job.yaml`` (resolved), ``machine.yaml``, ``submission.json``, ``jobs.txt`` (job ids,
the newest last), ``log.txt``, and ``exit_code`` once the script has ended.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import DONE, UserError
from ..rundir.atomic_io import write_whole
from .schedulers import SCHEDULERS, open_scheduler
from .schedulers.scheduler import JobState, Scheduler


@dataclass(frozen=True)
class Submission:
    """The content of ``submission.json``.

    Attributes:
        system: the scheduler's name.
        name: the run's name.
        machine: the machine's name.
        nodes: number of nodes.
        ranks: number of ranks.
        walltime_s: seconds.
        scaling: strong or weak, of the sweep that the run is part of.
        seed: the run's seed in that sweep.
    """

    system: str
    name: str
    machine: str
    nodes: int
    ranks: int
    walltime_s: int
    scaling: str | None = None
    seed: int | None = None


class BatchFolder:
    """The folder ``batch`` of a run directory."""

    def __init__(self, run: Path):
        self.run = run
        self.folder = run / "batch"
        self.log = self.folder / "log.txt"

    def prepare(self, submission: Submission, files: dict[str, str]) -> None:
        """Write the files of a submission.

        Raises:
            UserError: the folder cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "exit_code").unlink(missing_ok=True)
            (self.run / "stop").unlink(missing_ok=True)
            for name, text in files.items():
                write_whole(self.folder / name, text)
            write_whole(self.folder / "submission.json", json.dumps(asdict(submission), indent=1) + "\n")
        except OSError as problem:
            raise UserError(
                f"{self.folder}: cannot be written to ({problem.strerror}); give another --run-dir"
            ) from None

    def submit(self, dependency: str | None) -> str:
        """Submit the script and return the job id."""
        job_id = self.scheduler.submit(self.folder, dependency)
        with open(self.folder / "jobs.txt", "a") as file:
            file.write(f"{job_id}\n")
        return job_id

    def read(self) -> Submission:
        """Return the submission.

        Raises:
            UserError: there is none, or its file is damaged.
        """
        path = self.folder / "submission.json"
        try:
            submission = Submission(**json.loads(path.read_text()))
            if isinstance(submission.system, str) and submission.system in SCHEDULERS:
                return submission
        except OSError:
            raise UserError(_nothing_submitted(self.run)) from None
        except (ValueError, TypeError, RecursionError):
            pass
        raise self._damaged(path, "not what submit wrote")

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler that it was submitted to."""
        return open_scheduler(self.read().system)

    @property
    def job_ids(self) -> list[str]:
        """All jobs of this run, the newest last."""
        path = self.folder / "jobs.txt"
        try:
            job_ids = path.read_text(errors="replace").split() if path.exists() else []
        except OSError as problem:
            raise self._damaged(path, f"cannot be read ({problem.strerror})") from None
        for job_id in job_ids:
            # scancel would take -u for an option.
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.\[\]-]*", job_id):
                raise self._damaged(path, f"contains {job_id[:60]!r}, which is not a job id")
        return job_ids

    @property
    def state(self) -> JobState:
        """State of the newest job; where the batch system has forgotten it, by the script's exit code."""
        scheduler, job_ids = self.scheduler, self.job_ids
        if not job_ids:
            return JobState("failed", "was never accepted")
        state = scheduler.job_state(job_ids[-1])
        if state is not None:
            return state
        exit_code = self.folder / "exit_code"
        if not exit_code.exists():
            return JobState("failed", f"{scheduler.title} does not know the job, and it left no exit code")
        code = exit_code.read_text(errors="replace").strip()
        return JobState("done" if code == str(DONE) else "failed", f"exit code {code}")

    def _damaged(self, path: Path, problem: str) -> UserError:
        advice = "see that no job of the run is in the queue, remove"
        return UserError(f"{path}: {problem}; {advice} {self.folder}, and submit with --resume")


def find_submissions(folder: Path) -> list[BatchFolder]:
    """Return the submission of a run directory, or those of all runs below a folder.

    Raises:
        UserError: there are none.
    """
    # os.path: a name too long for the file system is no folder; Path.is_dir would raise.
    below = folder.glob("**/batch/submission.json") if os.path.isdir(folder) else []
    paths = sorted([folder / "batch/submission.json", *below])
    runs = {path.parent.parent: None for path in paths if os.path.exists(path)}  # each once, in order
    if not runs:
        raise UserError(_nothing_submitted(folder))
    return [BatchFolder(run) for run in runs]


def _nothing_submitted(folder: Path) -> str:
    return f"{folder}: nothing was submitted for a run there; name the run directory that submit printed"
