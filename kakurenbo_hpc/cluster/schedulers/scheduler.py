"""What every batch system can do, and how its commands are called."""

from __future__ import annotations

import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, NamedTuple

from ...errors import UserError


class State(NamedTuple):
    """What a batch system says of a job. word: queued, running, done, cancelled or failed. detail: in its own words."""

    word: str
    detail: str


class Queue(NamedTuple):
    """A queue or partition that takes jobs. limit_s: the longest walltime, None where there is no limit."""

    name: str
    limit_s: int | None


class Scheduler(ABC):
    """A batch system, through its commands."""

    name: ClassVar[str]

    @abstractmethod
    def submit_words(self, dependency: str | None) -> list[str]:
        """Return the command that submits ``script.sh`` of the folder it runs in. dependency: as its own option takes it."""

    @abstractmethod
    def job_id(self, said: str) -> str:
        """Return the job id in what the command said. Raises UserError if there is none."""

    @abstractmethod
    def state(self, job_id: str) -> State | None:
        """Return how a job is, or None where it has been forgotten. Raises UserError if the system cannot be asked."""

    @abstractmethod
    def queue(self, name: str | None) -> Queue:
        """Return a queue, or the one that jobs go to by themselves. Raises UserError if it is not there, or takes no jobs."""

    @abstractmethod
    def cancel_words(self, job_id: str) -> list[str]: ...

    def submit(self, folder: Path, dependency: str | None) -> str:
        """Submit the script in a folder and return the job id. Raises UserError, with the system's reason, if it refuses."""
        return self.job_id(say(self.submit_words(dependency), folder))

    def cancel(self, job_id: str) -> None:
        """Cancel a job. Raises UserError if that is refused."""
        say(self.cancel_words(job_id))


def check_there(command: str) -> None:
    """Raise UserError if a batch system's command is not on the PATH."""
    if shutil.which(command) is None:
        raise UserError(
            f"no {command} on the PATH; run this where the batch system is, or choose another --machine"
        )


def ask(words: list[str], folder: Path | None = None) -> subprocess.CompletedProcess:
    """Run a command of a batch system; output as text. Raises UserError if it is not there or does not answer."""
    check_there(words[0])
    try:
        return subprocess.run(
            words,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=120,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{words[0]} gives no answer in two minutes; try again later") from None


def answered(asked: subprocess.CompletedProcess) -> None:
    """Raise UserError, with its own words, if a command that asks did not succeed."""
    if asked.returncode:
        raise UserError(f"{asked.args[0]} gives no answer: {_complaint(asked)}; try again later")


def job_id_in(said: str, pattern: str) -> str:
    """Return the last line that is a job id: a site may have its commands say more. Raises UserError if none is."""
    found = [match[1] for line in said.splitlines() if (match := re.fullmatch(pattern, line.strip()))]
    if not found:
        raise UserError(
            f"no job id in what submitting said: {' '.join(said.split())[:300]!r}; look into the queue, and ask the site"
        )
    return found[-1]


def say(words: list[str], folder: Path | None = None) -> str:
    """Run a command that has to succeed and return its stdout. Raises UserError, with its own words, if it does not."""
    done = ask(words, folder)
    if done.returncode:
        raise UserError(f"{words[0]} refuses: {_complaint(done)}; correct the machine file or the command")
    return done.stdout


def _complaint(done: subprocess.CompletedProcess) -> str:
    return " ".join((done.stderr or done.stdout).split())[:300] or f"exit code {done.returncode}"
