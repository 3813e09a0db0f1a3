"""The script that a batch system runs, as text; and what a walltime is."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import jinja2

from ..errors import JobError, UserError
from ..shipped import jobs_dir
from .machine import Machine

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Script:
    """What a batch script is made of. name: as the batch system shows it. run: its run directory; here: where paths of the
    job begin. Both absolute. walltime_s: seconds. python: a path."""

    name: str
    nodes: int
    walltime_s: int
    machine: Machine
    run: Path
    here: Path
    python: str

    def text(self) -> str:
        """Return the whole script. Every value in it is quoted, or one word by its own nature."""
        templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(jobs_dir() / "templates"),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            keep_trailing_newline=True,
        )
        templates.filters["quoted"] = lambda value: shlex.quote(str(value))
        values = vars(self) | {"name": plain_name(self.name), "walltime": clock(self.walltime_s), "select": self._select()}
        return templates.get_template(f"{self.machine.scheduler}.sh.j2").render(values)

    def _select(self) -> str:
        """Return PBS's request: so many chunks, each of them a node."""
        machine = self.machine
        ranks, cores, memory = machine.ranks_per_node, machine.cores_per_node, machine.memory_gib
        request = [str(self.nodes), f"ncpus={cores or ranks}", f"mpiprocs={ranks}", f"ompthreads={machine.cores_per_rank or 1}"]
        return ":".join([*request, *([f"mem={memory}gb"] if memory else []), *machine.chunk])


def python_of(machine: Machine) -> str:
    """Return the Python that runs in the job: that of the machine file's environment, else this one."""
    return str(Path(machine.python) / "bin" / "python") if machine.python else sys.executable


def plain_name(name: str) -> str:
    """Return a name that batch systems take: PBS refuses spaces, slashes, and hundreds of characters."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:100]
    return plain if plain[:1].isalnum() else f"k{plain}"


def seconds(walltime: str) -> int:
    """Return the seconds of ``2h``, ``90m``, ``1d``, ``HH:MM:SS`` or ``D-HH:MM:SS``. Raises UserError for any other text."""
    if unit := re.fullmatch(r"([0-9]{1,6})([mhd])", walltime):
        found = int(unit[1]) * _UNITS[unit[2]]
    elif parts := re.fullmatch(r"(?:([0-9]{1,3})-)?([0-9]{1,4}):([0-5][0-9]):([0-5][0-9])", walltime):
        found = sum(int(part or 0) * size for part, size in zip(parts.groups(), (86400, 3600, 60, 1)))
    else:
        raise UserError(f"--walltime {walltime}: not a time; write 2h, 90m, 1d, or HH:MM:SS")
    if found == 0:
        raise UserError(f"--walltime {walltime}: no time at all; write 2h, 90m, 1d, or HH:MM:SS")
    return found


def fitting_walltime(walltime: str, machine: Machine) -> int:
    """Return its seconds. Raises JobError if it leaves no time before the grace."""
    found = seconds(walltime)
    early = 60 if machine.scheduler == "slurm" else 0
    if found <= machine.grace_s + early:
        told = f"told to leave {machine.grace_s} s before its end (grace_s of {machine.name})"
        raise JobError(f"--walltime {walltime}: a run is {told}{f', by Slurm up to {early} s earlier' if early else ''}; give more")
    return found


def clock(s: int) -> str:
    """Return HH:MM:SS, which both batch systems read alike."""
    return f"{s // 3600:02d}:{s // 60 % 60:02d}:{s % 60:02d}"
