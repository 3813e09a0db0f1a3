"""The interface of batch systems.

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
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from ...errors import UserError
from .commands import run_checked

if TYPE_CHECKING:
    from ..machine import Machine
    from ..script import Script


Status = Literal["queued", "running", "done", "cancelled", "failed"]
ENDED = ("done", "cancelled", "failed")


class JobState(NamedTuple):
    """State of a job.

    Attributes:
        status: of a run, in our words.
        detail: in the batch system's own words.
        reason: why it waits.
        begins: when it may start, ``2026-11-28T08:01:36``; empty where that is not known.
    """

    status: Status
    detail: str
    reason: str = ""
    begins: str = ""


class Queue(NamedTuple):
    """A queue or partition that accepts jobs; None where it has no limit.

    Attributes:
        name: its name.
        limit_s: its longest walltime, in seconds.
        max_nodes: the most nodes of a job.
    """

    name: str
    limit_s: int | None
    max_nodes: int | None = None


class Options(NamedTuple):
    """Options of the command line for the batch system; None where not given.

    Attributes:
        qos: quality of service.
        reservation: name of a reservation.
        mail: address that hears of the job's end.
    """

    qos: str | None = None
    reservation: str | None = None
    mail: str | None = None


class Scheduler(ABC):
    """A batch system. Its script template is beside its module: ``slurm.py``, ``slurm.sh.j2``."""

    title: ClassVar[str]
    """Its name in messages."""

    machine_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys of machine files that only some schedulers use and this one does: ``chunk``."""

    early_signal_s: ClassVar[int] = 0
    """Seconds by which the early signal may come before the requested moment."""

    variables: ClassVar[str] = ""
    """Regular expression of the variables that it sets in a job, or reads as the user's defaults."""

    job_variable: ClassVar[str] = ""
    """The variable that holds the job id inside a job."""

    node_variable: ClassVar[str] = ""
    """A variable that stands on a job's nodes alone; the shell of an allocation may be on a login node."""

    array_variable: ClassVar[str] = ""
    """The variable that holds the index of a task of an array, counted from 0; empty if it has no arrays."""

    @property
    def template(self) -> str:
        """The text of its script template."""
        return Path(inspect.getfile(type(self))).with_suffix(".sh.j2").read_text(encoding="utf-8")

    def script_values(self, machine: Machine, n_nodes: int) -> dict[str, str]:
        """Return values that only this scheduler's template uses, beside those of all (see ``Script``)."""
        return {}

    def job_hosts(self, environ: Mapping[str, str]) -> list[str]:
        """Return the names of the nodes of the job with this environment; none where they are not known."""
        return []

    def on_host(self, host: str, program: list[str]) -> list[str]:
        """Return the line that runs a program once on a node of the job; empty where there is no way."""
        return []

    def passes(self, variable: str, machine: Machine | None) -> bool:
        """Whether one of its ``variables`` reaches its commands; the others are withheld.

        Args:
            variable: its name.
            machine: of the job that is submitted; None for all other commands.
        """
        return False

    def queue_name(self, machine: Machine) -> str | None:
        """Return the queue that a job on this machine goes to, None for the default one."""
        return machine.queue

    def check_script(self, script: Script, environment: Mapping[str, str]) -> None:
        """Check that the batch system would accept a script, as far as it tells without a submission.

        Args:
            script: the script.
            environment: of the submit command.

        Raises:
            UserError: it would not; with its reason.
        """
        return

    def last_words(self, folder: Path, job_id: str) -> str:
        """Return why the batch system ended a job, where it wrote that into a file of the batch folder."""
        return ""

    def options(self, options: Options) -> list[str]:
        """Return the header lines of options of the command line that no key of machine files stands for.

        Raises:
            UserError: it has no such thing.
        """
        if any(options):
            raise UserError(f"{self.title}: --qos, --reservation and --mail are not known; use extra")
        return []

    def array_options(self, n_tasks: int, limit: int | None) -> list[str]:
        """Return the options of the submit command for an array of tasks 0 to n_tasks - 1.

        Args:
            n_tasks: at least two.
            limit: how many may run at a time.
        """
        raise UserError(f"{self.title} has no arrays here")

    def task_id(self, array_id: str, index: int) -> str:
        """Return the job id of a task of an array."""
        raise NotImplementedError

    def after(self, job_ids: Sequence[str], when_done: bool) -> str:
        """Return the dependency on the end of jobs, or, ``when_done``, on their success."""
        return ":".join(["afterok" if when_done else "afterany", *job_ids])

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
            NoAnswer: the batch system does not answer.
        """

    def job_states(self, job_ids: Sequence[str]) -> dict[str, JobState]:
        """Return the states of jobs by their ids, without those that the batch system has forgotten.

        Raises:
            NoAnswer: the batch system does not answer.
        """
        states = {job_id: self.job_state(job_id) for job_id in job_ids}
        return {job_id: state for job_id, state in states.items() if state is not None}

    @abstractmethod
    def find_queue(self, name: str | None) -> Queue:
        """Return a queue by name, the default queue for None.

        Raises:
            UserError: there is no such queue, or it accepts no jobs.
            NoAnswer: the batch system does not answer.
        """

    @abstractmethod
    def cancel_command(self, job_id: str) -> list[str]:
        """Return the command that cancels a job."""

    def submit(
        self,
        folder: Path,
        dependency: str | None,
        environment: Mapping[str, str] | None = None,
        array: Sequence[str] = (),
    ) -> str:
        """Submit the script in a folder and return the job id.

        Args:
            folder: where the script is.
            dependency: in the batch system's own syntax.
            environment: of the submit command; None for that of this process.
            array: its options for an array.

        Raises:
            UserError: the batch system refuses the job; with its reason.
        """
        *command, script = self.submit_command(dependency)
        return self.parse_job_id(run_checked([*command, *array, script], folder, environment))

    def cancel(self, job_id: str) -> None:
        """Cancel a job.

        Raises:
            UserError: the batch system refuses; with its reason.
        """
        run_checked(self.cancel_command(job_id), environment=self.environment())

    def environment(self) -> dict[str, str]:
        """Return the environment of commands that ask or cancel: without the user's defaults for them."""
        return {
            name: value
            for name, value in os.environ.items()
            if not re.fullmatch(self.variables, name) or self.passes(name, None)
        }
