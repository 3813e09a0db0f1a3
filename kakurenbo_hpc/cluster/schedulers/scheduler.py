"""Batch systems: the interface, and how their commands are run.

The life of a job, and where a scheduler takes part in it (its template in brackets):

    kakurenbo submit
        |   script_values(), [the whole script]      RUN/batch/script.sh
        |   submit_command(), parse_job_id()         RUN/batch/jobs.txt
        v
     queued <---------------------------------------------------------+
        |                                                             |
        v                                                             |
     running: script.sh -> kakurenbo launch -> launcher -> ranks      |
        |                                                             |
        |   grace_s before the walltime [early signal]: the ranks     |
        |   write a checkpoint and leave with 75                      |
        v                                                             |
     script.sh ends with the ranks' exit code                         |
        |---- 75, not cancelled, below max_requeues [requeue] --------+
        |---- 0                                           done
        |---- job_state() says so, cancel_command()       cancelled
        +---- any other                                   failed

Add a scheduler: ``README.md`` in this folder.
"""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from ...errors import UserError

if TYPE_CHECKING:
    from ..machine import Machine

Status = Literal["queued", "running", "done", "cancelled", "failed"]
ENDED = ("done", "cancelled", "failed")
_TIMEOUT_S = 120


class JobState(NamedTuple):
    """State of a job. detail: in the batch system's own words."""

    status: Status
    detail: str


class Queue(NamedTuple):
    """A queue or partition that accepts jobs. limit_s: its longest walltime, None without a limit."""

    name: str
    limit_s: int | None


class Scheduler(ABC):
    """A batch system. Its script template is beside its module: ``slurm.py``, ``slurm.sh.j2``."""

    title: ClassVar[str]
    """Its name in messages."""

    machine_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys of machine files that only some schedulers use and this one does: ``chunk``."""

    early_signal_s: ClassVar[int] = 0
    """Seconds by which the early signal may come before the requested moment."""

    @property
    def template(self) -> str:
        """The text of its script template."""
        return Path(inspect.getfile(type(self))).with_suffix(".sh.j2").read_text(encoding="utf-8")

    def script_values(self, machine: Machine, n_nodes: int) -> dict[str, str]:
        """Return values that only this scheduler's template uses, beside those of all (see ``Script``)."""
        return {}

    @abstractmethod
    def submit_command(self, dependency: str | None) -> list[str]:
        """Return the command that submits ``script.sh`` of the folder it runs in.

        Args:
            dependency: in the batch system's own syntax, ``afterok:12``.
        """

    @abstractmethod
    def parse_job_id(self, output: str) -> str:
        """Return the job id in the output of the submit command.

        Raises:
            UserError: there is none.
        """

    @abstractmethod
    def job_state(self, job_id: str) -> JobState | None:
        """Return the state of a job, None where the batch system has forgotten it.

        Raises:
            UserError: the batch system does not answer.
        """

    @abstractmethod
    def find_queue(self, name: str | None) -> Queue:
        """Return a queue by name, the default queue for None.

        Raises:
            UserError: there is no such queue, or it accepts no jobs.
        """

    @abstractmethod
    def cancel_command(self, job_id: str) -> list[str]:
        """Return the command that cancels a job."""

    def submit(self, folder: Path, dependency: str | None) -> str:
        """Submit the script in a folder and return the job id.

        Raises:
            UserError: the batch system refuses the job; with its reason.
        """
        return self.parse_job_id(run_checked(self.submit_command(dependency), folder))

    def cancel(self, job_id: str) -> None:
        """Cancel a job.

        Raises:
            UserError: the batch system refuses; with its reason.
        """
        run_checked(self.cancel_command(job_id))


def check_installed(program: str) -> None:
    """Raise UserError if a program of a batch system is not on the PATH."""
    if shutil.which(program) is None:
        raise UserError(
            f"no {program} on the PATH; run this where the batch system is, or choose another --machine"
        )


def run_command(command: list[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of a batch system, whatever its exit code.

    Raises:
        UserError: it is not installed, or does not end.
    """
    check_installed(command[0])
    try:
        return subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} gives no answer in two minutes; try again later") from None


def run_checked(command: list[str], folder: Path | None = None) -> str:
    """Run a command that has to succeed and return its stdout.

    Raises:
        UserError: it fails; with its own message.
    """
    done = run_command(command, folder)
    if done.returncode:
        raise UserError(f"{command[0]} refuses: {_reason(done)}; correct the machine file or the command")
    return done.stdout


def check_query(done: subprocess.CompletedProcess[str]) -> None:
    """Raise UserError, with the command's own message, if a query failed."""
    if done.returncode:
        raise UserError(f"{done.args[0]} gives no answer: {_reason(done)}; try again later")


def last_job_id(output: str, pattern: str) -> str:
    """Return group 1 of the last line that matches as a whole: at some sites the commands print more.

    Raises:
        UserError: no line matches.
    """
    job_ids = [match[1] for line in output.splitlines() if (match := re.fullmatch(pattern, line.strip()))]
    if not job_ids:
        printed = " ".join(output.split())[:300]
        raise UserError(
            f"no job id in the output of the submit command: {printed!r}; look into the queue, and ask the "
            "site"
        )
    return job_ids[-1]


def clock_seconds(clock: str) -> int:
    """Return the seconds of ``SS``, ``MM:SS`` or ``HH:MM:SS``."""
    return sum(int(part) * 60**i for i, part in enumerate(reversed(clock.split(":"))))


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stderr or done.stdout).split())[:300] or f"exit code {done.returncode}"
