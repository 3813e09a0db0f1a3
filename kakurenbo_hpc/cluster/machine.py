"""The facts of a machine, as ``launch/machines/*.yaml`` states them: what changes with the machine, never with the job."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from ..config.options import Count, Options, checked
from ..config.package_files import launch_dir
from ..config.yaml import read_yaml
from ..errors import JobError, nearest
from .text_table import table


def _settable(environment: dict[str, str]) -> dict[str, str]:
    for name, value in environment.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"{name!r} is no name of a variable; use letters, digits and '_'")
        if "\0" in value:
            raise ValueError(f"the value of {name} holds a null character; no environment can")
    return environment


def word(value: str) -> str:
    """Return a value that a line of a batch script can hold as it is. Raises ValueError for any other."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.,:+/@=%-]*", value):
        raise ValueError("must be one word of letters, digits and _ . , : + / @ = % -")
    return value


def _line(value: str) -> str:
    if not value.isprintable() or not value.strip():
        raise ValueError("must be one line of printable characters")
    return value


def _folder(value: str) -> str:
    path = os.path.expanduser(_line(value))
    if not os.path.isabs(path):
        raise ValueError("must be the absolute path of a folder, or begin with ~/")
    return path


Word = Annotated[str, AfterValidator(word)]
Line = Annotated[str, AfterValidator(_line)]
Natural = Annotated[int, Field(ge=0, lt=2**31)]


class Machine(Options):
    """How ranks start on a machine; ``slurm_v100.yaml`` and ``pbs_v100.yaml`` explain each key."""

    name: str
    scheduler: Literal["slurm", "pbs", "none"] = "none"
    starter: Literal["mpirun", "mpiexec", "srun", "torchrun"]
    mpi: Word | None = None
    ranks_per_node: Count | None = None
    gpus_per_node: Natural = 0
    gpu_type: Word | None = None
    gpu_numa: list[Natural] = []
    cores_per_node: Count | None = None
    memory_gib: Count | None = None
    scratch: Line | None = None
    modules: list[Word] = []
    environment: Annotated[dict[str, str], AfterValidator(_settable)] = {}
    python: Annotated[str, AfterValidator(_folder)] | None = None
    account: Word | None = None
    queue: Word | None = None
    chunk: list[Word] = []
    extra: list[Line] = []
    grace_s: Count = 180
    max_requeues: Natural = 20

    @model_validator(mode="after")
    def _consistent(self) -> Machine:
        if self.scheduler != "none" and self.ranks_per_node is None:
            raise ValueError(f"scheduler is {self.scheduler}, but ranks_per_node is missing; add it")
        if self.starter == "srun" and self.scheduler != "slurm":
            raise ValueError(
                f"starter is srun, but scheduler is {self.scheduler}; set it to slurm, or start with mpirun"
            )
        if self.mpi and self.starter != "srun":
            raise ValueError(
                f"mpi is {self.mpi}, which only srun is told, but starter is {self.starter}; remove mpi"
            )
        if self.chunk and self.scheduler != "pbs":
            raise ValueError(
                f"chunk is an entry of PBS's select, but scheduler is {self.scheduler}; remove chunk"
            )
        if self.gpus_per_node and (self.ranks_per_node or 0) > self.gpus_per_node:
            raise ValueError(
                f"ranks_per_node is {self.ranks_per_node}, but gpus_per_node is {self.gpus_per_node}; start at most one rank per GPU"
            )
        if self.gpu_numa and len(self.gpu_numa) != self.gpus_per_node:
            raise ValueError(
                f"gpu_numa names {len(self.gpu_numa)} GPUs, but gpus_per_node is {self.gpus_per_node}; give one NUMA node for each GPU"
            )
        return self

    @property
    def cores_per_rank(self) -> int | None:
        """Cores of each rank where a node is full of ranks; None where the machine does not say how many cores there are."""
        return (
            max(1, self.cores_per_node // self.ranks_per_node)
            if self.cores_per_node and self.ranks_per_node
            else None
        )


def read_machine(name_or_path: str) -> Machine:
    """Read a machine file as it is named, or one that comes with the package: ``local``.

    Raises JobError, one line, if there is neither (naming the nearest), or for the first thing in it that is wrong.
    """
    path = find_machine(name_or_path)
    return checked(Machine, read_yaml(path), str(path))


def shipped_machines() -> dict[str, Path]:
    """Return the machine files that come with the package, by name."""
    return {path.stem: path for path in sorted((launch_dir() / "machines").glob("*.yaml"))}


def find_machine(name_or_path: str) -> Path:
    """Return the path of a machine file. Raises JobError if there is none."""
    shipped = shipped_machines()
    # os.path: a name too long for the file system is no file; Path.is_file would raise.
    if os.path.isfile(name_or_path):
        return Path(name_or_path)
    if name_or_path in shipped:
        return shipped[name_or_path]
    known = nearest(Path(name_or_path).stem, shipped)
    raise JobError(
        f"{name_or_path}: no such machine file, and no machine of that name comes with the package; {known}"
    )


def list_machines() -> str:
    """Return a table of the machines that come with the package, for people."""
    rows = [("machine", "scheduler", "starter", "ranks a node", "GPUs a node", "file")]
    for name, path in shipped_machines().items():
        machine = read_machine(str(path))
        gpus = f"{machine.gpus_per_node} {machine.gpu_type or ''}".strip() if machine.gpus_per_node else "-"
        rows.append(
            (name, machine.scheduler, machine.starter, str(machine.ranks_per_node or "any"), gpus, str(path))
        )
    return table(rows)
