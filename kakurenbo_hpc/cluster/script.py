"""The script that a batch system runs, as text."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import jinja2

from .machine import Machine
from .walltime import clock


@dataclass(frozen=True)
class Script:
    """What a batch script is made of. name: as the batch system shows it. run: its run directory; here: where paths of the
    job begin. Both absolute. walltime_s: seconds. python: a path. allow_changes: the run goes on even if its job was another one."""

    name: str
    nodes: int
    walltime_s: int
    machine: Machine
    run: Path
    here: Path
    python: str
    allow_changes: bool = False

    def text(self) -> str:
        """Return the whole script. Every value in it is quoted, or one word by its own nature."""
        templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent / "schedulers"),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            keep_trailing_newline=True,
        )
        templates.filters["quoted"] = lambda value: shlex.quote(str(value))
        values = vars(self) | {
            "name": plain_name(self.name),
            "walltime": clock(self.walltime_s),
            "select": self._select(),
        }
        return templates.get_template(f"{self.machine.scheduler}.sh.j2").render(values)

    def _select(self) -> str:
        """Return PBS's request: so many chunks, each of them a node."""
        machine = self.machine
        ranks, cores, memory = machine.ranks_per_node, machine.cores_per_node, machine.memory_gib
        request = [
            str(self.nodes),
            f"ncpus={cores or ranks}",
            f"mpiprocs={ranks}",
            f"ompthreads={machine.cores_per_rank or 1}",
        ]
        return ":".join([*request, *([f"mem={memory}gb"] if memory else []), *machine.chunk])


def python_of(machine: Machine) -> str:
    """Return the Python that runs in the job: that of the machine file's environment, else this one."""
    return str(Path(machine.python) / "bin" / "python") if machine.python else sys.executable


def plain_name(name: str) -> str:
    """Return a name that batch systems take: PBS refuses spaces, slashes, and hundreds of characters."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:100]
    return plain if plain[:1].isalnum() else f"k{plain}"
