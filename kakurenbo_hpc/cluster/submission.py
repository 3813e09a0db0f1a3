"""The folder ``batch`` of a run directory: what was submitted for the run, and how its jobs have ended.

It holds ``script.sh`` (that of an array is in the folder ``batch`` above its runs), ``job.yaml`` (resolved),
``machine.yaml``, ``submission.json``, ``jobs.txt`` (job ids, the newest last), ``log.txt``, ``requeues`` (how
often it was requeued), ``exit_code`` once the script has ended, ``cancelled`` and ``stopped`` (the id of the
job that ``kakurenbo cancel`` or ``stop`` has ended), and ``ended.json``, the state that a job has ended in.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import DONE, REQUEUE, UserError
from ..rundir.atomic_io import write_whole
from ..rundir.watchdog.heartbeat import seconds_since_beat
from .schedulers import SCHEDULERS, open_scheduler
from .schedulers.scheduler import ENDED, JobState, Scheduler
from .walltime import format_clock

# Ranks write a heartbeat every ten seconds; a network file system may show it a minute later.
ALIVE_S = 90
_IN_A_RUN = ("batch", "checkpoints", "heartbeat", "ledger", "weights")  # hold no runs
_ENDINGS = ("exit_code", "cancelled", "stopped", "ended.json")  # files that tell how a job has ended


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
        epochs: that the run is to have; None of what is no run.
    """

    system: str
    name: str
    machine: str
    nodes: int
    ranks: int
    walltime_s: int
    scaling: str | None = None
    seed: int | None = None
    epochs: int | None = None


class BatchFolder:
    """The folder ``batch`` of a run directory."""

    def __init__(self, run: Path):
        self.run = run
        self.folder = run / "batch"
        self.log = self.folder / "log.txt"
        self._new: list[Path] = []
        self._before: dict[str, str] = {}

    def prepare(self, submission: Submission, files: Mapping[str, str]) -> None:
        """Write the files of a submission; ``undo`` takes it back.

        Args:
            submission: what is submitted.
            files: the text of each file, by name.

        Raises:
            UserError: the folder cannot be written to.
        """
        self._new = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        self._before = {name: _read(self.folder / name) for name in _ENDINGS}
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

    def undo(self) -> None:
        """Remove the new folders, the inner ones first, or write how the job before has ended."""
        with contextlib.suppress(OSError):
            if self.folder in self._new:
                shutil.rmtree(self.folder)
                for folder in self._new[1:]:
                    folder.rmdir()
                return
            for name, text in self._before.items():
                if text:
                    write_whole(self.folder / name, f"{text}\n")

    def add_job(self, job_id: str) -> None:
        """Note the id of a job that the batch system has accepted."""
        with open(self.folder / "jobs.txt", "a") as file:
            file.write(f"{job_id}\n")

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

    def stop(self, requeue: bool) -> str:
        """Ask the ranks to write a checkpoint and leave, and return the newest job's id.

        Unless ``requeue``, the script does not put the run into the queue again.
        """
        job_id = self.job_ids[-1]
        if not requeue:
            write_whole(self.folder / "stopped", f"{job_id}\n")
        write_whole(self.run / "stop", "kakurenbo stop\n")
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
    def n_requeues(self) -> int | None:
        """How often the run was requeued since it was submitted; None where its script has not begun."""
        text = _read(self.folder / "requeues")
        return int(text) if text.isdecimal() else None

    @property
    def exit_code(self) -> int | None:
        """The exit code that the newest job's script has left, if it has ended."""
        text = _read(self.folder / "exit_code")
        return int(text) if text.isdecimal() else None

    @property
    def state(self) -> JobState:
        """State of the newest job.

        Raises:
            NoAnswer: the batch system does not answer.
            UserError: a file of the folder is damaged.
        """
        scheduler, state = self.scheduler, self.known_end()
        return state or self.judge(scheduler.job_state(self.job_ids[-1]))

    def known_end(self) -> JobState | None:
        """Return the state of a job that was seen to have ended, None of one that has to be asked for."""
        job_ids = self.job_ids
        if not job_ids:
            return JobState("failed", "was never accepted")
        try:
            facts = json.loads(_read(self.folder / "ended.json") or "{}")
            if facts.get("job") == job_ids[-1] and facts["status"] in ENDED:
                return JobState(facts["status"], str(facts["detail"]))
        except (ValueError, LookupError, AttributeError):
            pass
        return None

    def judge(self, state: JobState | None) -> JobState:
        """Return the state of the newest job by what the batch system says, and by what the run has left.

        An end is remembered: no later question is put to the batch system for it.

        Args:
            state: what the batch system says; None where it has forgotten the job.
        """
        scheduler, job_id = open_scheduler(self.read().system), self.job_ids[-1]
        is_known = state is not None or bool(_read(self.folder / "exit_code"))
        state = state or self._state_by_traces(scheduler.title)
        if state.status == "failed":
            state = self._explain_failure(state, scheduler, job_id)
        if state.status in ENDED and is_known:
            facts = {"job": job_id, "status": state.status, "detail": state.detail}
            with contextlib.suppress(OSError):  # not synced: if it is lost, the question is put again
                (self.folder / "ended.json").write_text(json.dumps(facts) + "\n")
        return state

    def _explain_failure(self, state: JobState, scheduler: Scheduler, job_id: str) -> JobState:
        if _read(self.folder / "cancelled") == job_id:
            return JobState("cancelled", f"by kakurenbo cancel; {state.detail}")
        if _read(self.folder / "stopped") and _read(self.folder / "exit_code") == str(REQUEUE):
            return JobState("cancelled", f"by kakurenbo stop, after a checkpoint; {state.detail}")
        if words := scheduler.last_words(self.folder, job_id):
            return JobState("failed", f"{state.detail}; {words}")
        return state

    def _state_by_traces(self, title: str) -> JobState:
        """Return the state by the script's exit code, and by the ranks' heartbeats if there is none."""
        code = _read(self.folder / "exit_code")
        if code:
            return JobState("done" if code == str(DONE) else "failed", f"exit code {code}")
        forgotten = f"{title} does not know the job"
        if idle_s := seconds_since_beat(self.run):
            if idle_s < ALIVE_S:
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
    runs = []
    for parent, folders, _ in os.walk(folder):
        if os.path.exists(os.path.join(parent, "batch", "submission.json")):
            runs.append(Path(parent))
            folders[:] = [name for name in folders if name not in _IN_A_RUN]
        folders.sort()
    if not runs:
        raise UserError(_nothing_submitted(folder))
    return [BatchFolder(run) for run in runs]


def _nothing_submitted(folder: Path) -> str:
    return f"{folder}: nothing was submitted for a run there; name the run directory that submit printed"
