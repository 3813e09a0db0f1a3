"""The batch script of a run, as text."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import jinja2

from ..errors import UserError
from . import schedulers
from .machine import Machine
from .walltime import format_clock


@dataclass(frozen=True)
class Script:
    """The values of a batch script; templates use them by these names.

    Attributes:
        name: as the batch system shows it; any text.
        nodes: number of nodes.
        walltime_s: seconds.
        machine: its header lines, modules and environment.
        run: run directory, absolute.
        here: folder where relative paths of the job begin, absolute.
        python: path of the Python that runs in the job.
        allow_changes: the run goes on even if its job was another one.
        work: words of ``kakurenbo launch`` before the job, ``score el2n``; none to train it.
        options: its options; None for those of a run.
        runs: run directories of the tasks of an array, in order; ``run`` is their common folder.
        after: run directories whose true end it waits for.
        after_done: it waits for their success, not for any end.
        restarts: as ``kakurenbo launch --restarts``.
    """

    name: str
    nodes: int
    walltime_s: int
    machine: Machine
    run: Path
    here: Path
    python: str
    allow_changes: bool = False
    work: tuple[str, ...] = ()
    options: tuple[str, ...] | None = None
    runs: tuple[Path, ...] = ()
    after: tuple[Path, ...] = ()
    after_done: bool = False
    restarts: int = 0

    @property
    def n_requested(self) -> int:
        """Nodes that the batch system is asked for."""
        return self.nodes + self.machine.spares

    def text(self) -> str:
        """Return the whole script. Every value in it is quoted, or checked to be one word."""
        scheduler = schedulers.open_scheduler(self.machine.scheduler)
        if self.work and not re.search(r"\{\{ work }}|\{%-?\s*extends\s", scheduler.template):
            raise UserError(
                f"{scheduler.title}: the script template starts runs only, not {self.work[0]}; add "
                "{{ work }} and {{ options }} to it (kakurenbo_hpc/cluster/schedulers/README.md)"
            )
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader(schedulers.__name__, ""),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            keep_trailing_newline=True,
        )
        environment.filters["quoted"] = lambda value: shlex.quote(str(value))
        values = {
            **vars(self),
            "name": plain_name(self.name),
            "walltime": format_clock(self.walltime_s),
            "path": environment_bin(self.machine, self.python),
            "work": "".join(f"{shlex.quote(word)} " for word in self.work),
            "options": self._options(),
            "n_requested": self.n_requested,
            **scheduler.script_values(self.machine, self.n_requested),
        }
        return environment.from_string(scheduler.template).render(values)

    def _options(self) -> str:
        if self.options is not None:
            return shlex.join(self.options)
        restarts = f" --restarts {self.restarts}" if self.restarts else ""
        return '--run-dir "$run" --resume' + " --allow-changes" * self.allow_changes + restarts


def python_of(machine: Machine) -> str:
    """Return the Python that runs in the job: of the machine file's environment, else this one."""
    return str(Path(machine.python) / "bin" / "python") if machine.python else sys.executable


def environment_bin(machine: Machine, python: str) -> str | None:
    """Return the folder of programs of the environment that a Python belongs to, None of the system's Python.

    A job's PATH begins with it, as if the environment were activated: else its ``mpiexec`` would be another
    one, such as PBS's own.
    """
    prefix = Path(python).parent.parent
    is_environment = (prefix / "pyvenv.cfg").exists() or (prefix / "conda-meta").exists()
    return str(prefix / "bin") if machine.python or is_environment else None


def plain_name(name: str) -> str:
    """Return a name that batch systems take: PBS refuses spaces, slashes, and hundreds of characters."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:100]
    return plain if plain[:1].isalnum() else f"k{plain}"
