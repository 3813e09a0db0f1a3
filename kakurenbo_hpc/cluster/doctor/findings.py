"""What the doctor examines: a machine, perhaps a job, and what processes of their own answer when they are asked."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...config.job import Job
from ...errors import UserError
from ..launch import bound_words, fitting_layout
from ..launchers.launcher import Layout, starter_line
from ..machine import Machine
from ..schedulers.scheduler import Queue
from ..script import python_of
from ..submission import SCHEDULERS
from .subprocess_json import Facts, answer

LIMIT_S = 300  # torch from a busy file system takes its time, on many ranks at once still more
FILES_LIMIT_S = 1800  # the first who reads a set of a hundred thousand files looks into each


class CheckWarning(Exception):
    """Something that may be right or wrong. The message says what to do, as a UserError's does."""


def _once(ask: Callable[[Findings], Any]) -> property:
    """Make a property that is asked for once; that there is no answer is remembered as well."""

    def remembered(case: Findings) -> Any:
        known = case.__dict__
        if ask.__name__ not in known:
            try:
                known[ask.__name__] = ask(case)
            except (UserError, CheckWarning) as problem:
                known[ask.__name__] = problem
        if isinstance(known[ask.__name__], Exception):
            raise known[ask.__name__]
        return known[ask.__name__]

    return property(remembered)


@dataclass(frozen=True)
class Findings:
    """What is known of it. file: the machine's. ranks: to be started here, inside a batch job; None outside. nodes: the job's.

    Answers raise UserError if there is none, and say why.
    """

    machine: Machine
    file: Path
    job: Job | None = None
    nodes: int | None = None
    ranks: int | None = None
    walltime: str | None = None

    @property
    def all_ranks(self) -> int:
        """The ranks of the job: those that are started, or as many as its nodes take."""
        return self.ranks or (self.nodes or 1) * (self.machine.ranks_per_node or 1)

    @_once
    def python(self) -> Facts:
        return self._ask("python")

    @_once
    def torch(self) -> Facts:
        return self._ask("torch")

    @_once
    def mpi(self) -> Facts:
        return self._ask("mpi")

    @_once
    def horovod(self) -> Facts:
        return self._ask("horovod")

    @_once
    def together(self) -> Facts:
        return self._ask("together")

    @_once
    def data(self) -> Facts:
        with tempfile.TemporaryDirectory() as folder:
            job = Path(folder) / "job.yaml"
            job.write_text(yaml.safe_dump(self.job.as_dict()))
            return self._ask("data", str(job), limit_s=FILES_LIMIT_S)

    @_once
    def world(self) -> Facts:
        """What ranks say: those that were asked for, or two here. Raises Doubt where none can be started here."""
        program = [*self._checkup("world"), self.machine.scratch or ""]
        if self.ranks is None:
            if self.machine.starter == "srun" and "SLURM_JOB_ID" not in os.environ:
                raise CheckWarning(
                    "srun starts ranks inside a job only; there, run kakurenbo doctor --ranks N"
                )
            layout = Layout(2)
        else:
            full = self.machine.ranks_per_node if self.machine.scheduler != "none" else None
            layout = fitting_layout(self.machine, self.ranks, self.nodes or (full and -(-self.ranks // full)))
            program = bound_words(self.machine, self.file, program)
        line = starter_line(self.machine, layout, program)
        facts = answer(line.words, line.environment, f"{layout.ranks} ranks", LIMIT_S)
        if len(facts["ranks"]) != layout.ranks:
            raise UserError(
                f"{line.words[0]} started {layout.ranks} ranks, but each sees {len(facts['ranks'])}; it is not of the MPI that mpi4py "
                "loads (see mpi): load that one's module, or build mpi4py anew: pip install --force-reinstall --no-binary mpi4py mpi4py"
            )
        return facts

    @_once
    def queue(self) -> Queue:
        return SCHEDULERS[self.machine.scheduler].queue(self.machine.queue)

    def _ask(self, what: str, *words: str, limit_s: float = LIMIT_S) -> Facts:
        return answer(
            [*self._checkup(what), *words],
            self.machine.environment,
            f"a process that asks for {what}",
            limit_s,
        )

    def _checkup(self, what: str) -> list[str]:
        return [python_of(self.machine), "-m", "kakurenbo_hpc.cluster.doctor.probes", what]
