"""Findings of the doctor: probe results for a machine and an optional job; each probe runs at most once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config.job import Job
from ...errors import UserError
from ..launch import bound_command, choose_layout
from ..launchers import launcher_line, open_launcher
from ..launchers.launcher import Layout
from ..machine import Machine
from ..preflight import find_queue
from ..schedulers.scheduler import Queue
from ..script import python_of
from .check_warning import CheckWarning
from .subprocess_json import Facts, probe_command, run_job_probe, run_probe

LIMIT_S = 300  # torch from a busy file system takes its time, on many ranks at once still more
FILES_LIMIT_S = 1800  # the first to read a set of a hundred thousand files opens each of them


def _once(probe: Callable[[Findings], Any]) -> property:
    """Make a property that runs its probe once; a failure is remembered as well."""
    name = probe.__name__

    def get(findings: Findings) -> Any:
        known = findings.__dict__
        if name not in known:
            try:
                known[name] = probe(findings)
            except (UserError, CheckWarning) as problem:
                known[name] = problem
        if isinstance(known[name], Exception):
            raise known[name]
        return known[name]

    return property(get, doc=probe.__doc__)


@dataclass(frozen=True)
class Findings:
    """A machine, perhaps a job, and what probes find of them.

    Properties raise UserError if a probe fails.

    Attributes:
        machine: the machine.
        machine_file: its path.
        job: the job that is to run.
        n_nodes: nodes of the job.
        n_ranks: ranks to start here, inside a batch job; None outside.
        walltime: of the job, as it was typed.
        run: directory of the job's run; None: one in the folder ``runs``.
    """

    machine: Machine
    machine_file: Path
    job: Job | None = None
    n_nodes: int | None = None
    n_ranks: int | None = None
    walltime: str | None = None
    run: Path | None = None

    @property
    def n_job_ranks(self) -> int:
        """Ranks of the job: those that are started, or as many as its nodes take."""
        return self.n_ranks or (self.n_nodes or 1) * (self.machine.ranks_per_node or 1)

    @_once
    def python(self) -> Facts:
        """Versions of Python and of this package."""
        return self._probe("python")

    @_once
    def torch(self) -> Facts:
        """What torch is built for, and the GPUs that it sees."""
        return self._probe("torch")

    @_once
    def mpi(self) -> Facts:
        """The MPI library that mpi4py loads."""
        return self._probe("mpi")

    @_once
    def horovod(self) -> Facts:
        """Horovod and the MPI that it is built against."""
        return self._probe("horovod")

    @_once
    def together(self) -> Facts:
        """The MPI libraries of a process that loads all that may bring one."""
        return self._probe("together")

    @_once
    def data(self) -> Facts:
        """The job's data, of which some samples are read."""
        return self._probe_job("data")

    @_once
    def checkpoint(self) -> Facts:
        """Bytes in a checkpoint of the job."""
        return self._probe_job("checkpoint")

    @_once
    def world(self) -> Facts:
        """Ranks that are really started: n_ranks, or two. CheckWarning where none can start here."""
        program = [*probe_command(python_of(self.machine), "world"), self.machine.scratch or ""]
        if self.n_ranks is None:
            if not open_launcher(self.machine.starter).can_start_here(os.environ):
                raise CheckWarning(
                    f"{self.machine.starter} starts ranks inside a job only; there, run kakurenbo doctor "
                    "--ranks N"
                )
            layout = Layout(2)
        else:
            full_node = self.machine.ranks_per_node if self.machine.scheduler != "none" else None
            n_nodes = self.n_nodes or (-(-self.n_ranks // full_node) if full_node else None)
            layout = choose_layout(self.machine, self.n_ranks, n_nodes)
            open_launcher(self.machine.starter).check_here(os.environ)
            program = bound_command(self.machine, self.machine_file, program)
        line = launcher_line(self.machine, layout, program)
        facts = run_probe(line.words, line.environment, f"{layout.n_ranks} ranks", LIMIT_S)
        if len(facts["ranks"]) != layout.n_ranks:
            raise UserError(
                f"{line.words[0]} started {layout.n_ranks} ranks, but each sees {len(facts['ranks'])}; it is "
                "not of the MPI that mpi4py loads (see mpi): load that one's module, or build mpi4py anew: "
                "pip install --force-reinstall --no-binary mpi4py mpi4py"
            )
        return facts

    @_once
    def queue(self) -> Queue:
        """The queue that the machine file names, or the default one."""
        return find_queue(self.machine)

    def _probe_job(self, name: str) -> Facts:
        if self.job is None:
            raise CheckWarning("no job is named")
        python, environment = python_of(self.machine), self.machine.environment
        return run_job_probe(python, name, self.job, environment, FILES_LIMIT_S)

    def _probe(self, name: str) -> Facts:
        command = probe_command(python_of(self.machine), name)
        return run_probe(command, self.machine.environment, f"probe of {name}", LIMIT_S)
