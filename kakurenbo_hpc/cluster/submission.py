"""The folder ``batch`` of a run directory: what was submitted for the run, and the state of its jobs.

It holds ``script.sh``, ``job.yaml`` (resolved), ``machine.yaml``, ``submission.json``, ``jobs.txt`` (job ids,
the newest last), ``log.txt``, ``exit_code`` once the script has ended, and ``cancelled``, the id of the job
that ``kakurenbo cancel`` has ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import DONE, UserError
from ..rundir.atomic_io import write_whole
from ..rundir.watchdog.heartbeat import seconds_since_beat
from .schedulers import SCHEDULERS, open_scheduler
from .schedulers.scheduler import JobState, Refusal, Scheduler
from .walltime import format_clock

# Ranks write a heartbeat every ten seconds; a network file system may show it a minute later.
_ALIVE_S = 90
_ENDINGS = ("exit_code", "cancelled")  # files that tell how a job has ended


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

    def submit(
        self,
        submission: Submission,
        files: Mapping[str, str],
        dependency: str | None,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Write the files of a submission, submit its script and return the job id.

        Args:
            submission: what is submitted.
            files: the text of each file, by name.
            dependency: in the batch system's own syntax.
            environment: of the submit command; None for that of this process.

        Raises:
            Refusal: the batch system refuses the job; no new folder is left behind.
            UserError: the folder cannot be written to, or it is not known whether the job was accepted.
        """
        new = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        before = {name: _read(self.folder / name) for name in _ENDINGS}
        self._prepare(submission, files)
        try:
            job_id = self.scheduler.submit(self.folder, dependency, environment)
        except Refusal:
            self._undo(new, before)
            raise
        with open(self.folder / "jobs.txt", "a") as file:
            file.write(f"{job_id}\n")
        return job_id

    def _undo(self, new: Sequence[Path], before: Mapping[str, str]) -> None:
        """Remove new folders, the inner ones first, or write how the job before has ended."""
        with contextlib.suppress(OSError):
            if self.folder in new:
                shutil.rmtree(self.folder)
                for folder in new[1:]:
                    folder.rmdir()
                return
            for name, text in before.items():
                if text:
                    write_whole(self.folder / name, f"{text}\n")

    def _prepare(self, submission: Submission, files: Mapping[str, str]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in (*(self.folder / name for name in _ENDINGS), self.run / "stop"):
                path.unlink(missing_ok=True)
            for name, text in files.items():
                write_whole(self.folder / name, text)
            write_whole(self.folder / "submission.json", json.dumps(asdict(submission), indent=1) + "\n")
        except OSError as problem:
            raise UserError(
                f"{self.folder}: cannot be written to ({problem.strerror}); give another --run-dir"
            ) from None

    def cancel(self) -> str:
        """Cancel the newest job and return its id. The note outlives the batch system's memory of it.

        Raises:
            UserError: the batch system refuses.
        """
        job_id = self.job_ids[-1]
        self.scheduler.cancel(job_id)
        with contextlib.suppress(OSError):
            write_whole(self.folder / "cancelled", f"{job_id}\n")
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
        """State of the newest job; where the batch system has forgotten it, by what the run has left.

        Raises:
            NoAnswer: the batch system does not answer.
            UserError: a file of the folder is damaged.
        """
        scheduler, job_ids = self.scheduler, self.job_ids
        if not job_ids:
            return JobState("failed", "was never accepted")
        state = scheduler.job_state(job_ids[-1]) or self._state_by_traces(scheduler.title)
        if state.status == "failed" and _read(self.folder / "cancelled") == job_ids[-1]:
            return JobState("cancelled", f"by kakurenbo cancel; {state.detail}")
        if state.status == "failed" and (words := scheduler.last_words(self.folder, job_ids[-1])):
            return JobState("failed", f"{state.detail}; {words}")
        return state

    def _state_by_traces(self, title: str) -> JobState:
        """Return the state by the script's exit code, and by the ranks' heartbeats if there is none."""
        code = _read(self.folder / "exit_code")
        if code:
            return JobState("done" if code == str(DONE) else "failed", f"exit code {code}")
        forgotten = f"{title} does not know the job"
        if idle_s := seconds_since_beat(self.run):
            if idle_s < _ALIVE_S:
                return JobState("running", f"{forgotten}, but its ranks wrote a heartbeat {idle_s:.0f} s ago")
            forgotten += f"; its ranks wrote their last heartbeat {format_clock(int(idle_s))} ago"
        return JobState("failed", f"{forgotten}, and it left no exit code")

    def _damaged(self, path: Path, problem: str) -> UserError:
        advice = "see that no job of the run is in the queue, remove"
        return UserError(f"{path}: {problem}; {advice} {self.folder}, and submit with --resume")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


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
