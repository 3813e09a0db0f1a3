"""Machine files: the facts of a machine that change with the machine, never with the job.

A key becomes a line of a batch script in the block ``header`` of ``schedulers/*.sh.j2``; one that only some
schedulers use stands in their ``machine_keys``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from ..config.options import Count, ExpandedPath, Options, check_line, checked, option
from ..config.package_files import launch_dir
from ..config.registry import Registry, is_path, search_folder
from ..config.yaml import read_yaml
from ..errors import JobError, nearest
from .container import Container, Line
from .launchers import LAUNCHERS, open_launcher
from .schedulers import SCHEDULERS, open_scheduler
from .text_table import format_table


def check_word(value: str) -> str:
    """Return a value that a line of a batch script can hold unquoted. Raises ValueError for any other."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.,:+/@=%-]*", value):
        raise ValueError("must be one word of letters, digits and _ . , : + / @ = % -")
    return value


def _check_environment(environment: dict[str, str]) -> dict[str, str]:
    for name, value in environment.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"{name!r} is not the name of a variable; use letters, digits and '_'")
        if "\0" in value:
            raise ValueError(f"the value of {name} contains a null character; remove it")
    return environment


def _check_folder(value: str) -> str:
    path = os.path.expanduser(check_line(value))
    if not os.path.isabs(path):
        raise ValueError("must be the absolute path of a folder, or begin with ~/")
    return path


def _check_pattern(value: str) -> str:
    try:
        re.compile(check_line(value))
    except re.error as problem:
        raise ValueError(f"is no regular expression: {problem}") from None
    return value


def _check_scheduler(name: str) -> str:
    if name != "none":
        _check_name(name, SCHEDULERS, ["none", *SCHEDULERS])
    return name


def _check_launcher(name: str) -> str:
    _check_name(name, LAUNCHERS, LAUNCHERS)
    return name


def _check_name(name: str, registry: Registry, known: Iterable[str]) -> None:
    try:
        registry[name]
    except KeyError:
        raise ValueError(f"there is no such {registry.kind}; {nearest(name, known)}") from None
    except JobError as problem:
        raise ValueError(str(problem)) from None


Word = Annotated[str, AfterValidator(check_word)]
Natural = Annotated[int, Field(ge=0, lt=2**31)]


class Machine(Options):
    """How ranks start on a machine."""

    name: str = option(..., "How messages call this machine.")
    scheduler: Annotated[str, AfterValidator(_check_scheduler)] = option(
        "none",
        "The batch system: `slurm`, `pbs` (PBS Pro, OpenPBS), `flux`, `none`, or the `package.module:Class` "
        "of another.",
    )
    starter: Annotated[str, AfterValidator(_check_launcher)] = option(
        ...,
        "The launcher, which starts the ranks: `mpirun` (Open MPI 4 or 5, MPICH, Intel MPI), `mpiexec`, "
        "`pals` (HPE Cray's mpiexec), `srun`, `flux` (flux run), `torchrun` (without MPI), or the "
        "`package.module:Class` of another.",
    )
    mpi: Word | None = option(
        None,
        "The plugin for `srun --mpi`: `pmix` for Open MPI, `pmi2` for MPICH and Intel MPI. `srun --mpi=list` "
        "shows those of a cluster.",
    )
    ranks_per_node: Count | None = option(
        None,
        "Ranks on each node: one per GPU. Required with a scheduler; without one, it is the most ranks that "
        "a node takes, and not set means no limit.",
        "ranks",
    )
    gpus_per_node: Natural = option(0, "GPUs of each node.", "GPUs")
    gpu_type: Word | None = option(
        None,
        "Type of the GPUs. The script requests `gpu:TYPE:N` of Slurm; leave it out where Slurm has no types. "
        "`doctor` checks by it that torch is built for these GPUs.",
    )
    gpu_numa: list[Natural] = option(
        [],
        "NUMA node of each GPU (`nvidia-smi topo -m`): a rank keeps to the cores of its GPU's NUMA node. If "
        "empty, the launcher's binding stays as it is.",
    )
    cores_per_node: Count | None = option(
        None,
        "Cores of each node that jobs may use, as Slurm counts them for `--cpus-per-task` (hardware threads "
        "at some sites: `CPUTot` of `scontrol show node`) or PBS for `ncpus` (`pbsnodes -a`).",
        "cores",
    )
    memory_gib: Count | None = option(None, "Memory of each node that jobs may ask for.", "GiB")
    scratch: Line | None = option(
        None,
        "Folder on each node's own disk, for jobs with `data.placement: local`. Variables such as `$TMPDIR` "
        "are expanded on the node; `mpirun` hands them on to nodes that ssh starts ranks on.",
    )
    modules: list[Word] = option([], "Environment modules that the script loads, in this order.")
    environment: Annotated[dict[str, str], AfterValidator(_check_environment)] = option(
        {},
        "Variables set for the ranks, and printed. Values are text (quote numbers) and are not expanded. "
        "UCX, NCCL and Open MPI get their settings from here only.",
    )
    python: Annotated[str, AfterValidator(_check_folder)] | None = option(
        None,
        "Python environment with kakurenbo_hpc (a folder with `bin/python`). Not set: the one that submits.",
    )
    stage_environment: Line | None = option(
        None,
        "Folder on each node's own disk, expanded as `scratch` is: ranks start from a copy of the Python "
        "environment there, which is read from the shared file system as one file, once a node. Not set: "
        "they start from the environment itself.",
    )
    account: Word | None = option(None, "Account that the time is charged to.")
    queue: Word | None = option(None, "Queue (PBS) or partition (Slurm). Not set: the site's default.")
    chunk: list[Word] = option(
        [],
        "PBS only: what else a node's chunk of `#PBS -l select` asks for. The resource of GPUs has the "
        "site's own name, often `ngpus=4`.",
    )
    extra: list[Line] = option(
        [], "Further lines of the script's header, as they stand after `#SBATCH` or `#PBS`."
    )
    grace_s: Count = option(
        180, "Time before the end of the walltime at which a run writes a checkpoint and leaves.", "seconds"
    )
    max_requeues: Natural = option(
        20, "How often a run that left before its end is put into the queue again.", "requeues"
    )
    spares: Natural = option(
        0,
        "Nodes that a job asks for beside those of --nodes: one takes the place of a node that fails its "
        "check or dies.",
        "nodes",
    )
    container: Container | None = option(
        None, "The container that ranks start in; the launcher and kakurenbo itself stay outside."
    )
    login_hosts: Annotated[str, AfterValidator(_check_pattern)] | None = option(
        None, "Regular expression of the whole names of its login nodes, for `kakurenbo machines --detect`."
    )
    untried: Line | None = option(
        None,
        "What this file is written from, if nobody has tried it there; `submit` and `doctor` say so.",
    )
    code: ExpandedPath | None = option(
        None,
        "Folder with the modules of package.module:Class names; the machine file's own folder if not given.",
    )

    @model_validator(mode="after")
    def _check_together(self) -> Machine:
        if self.scheduler != "none" and self.ranks_per_node is None:
            raise ValueError(f"scheduler is {self.scheduler}, but ranks_per_node is missing; add it")
        launcher = open_launcher(self.starter)
        launcher.check_machine(self)
        if self.container and self.container.runtime not in launcher.containers:
            raise ValueError(
                f"container.runtime is {self.container.runtime}, but starter {self.starter} does not start "
                "it; use apptainer, or srun with pyxis"
            )
        if self.container and self.stage_environment:
            raise ValueError(
                "container and stage_environment are both set, but ranks in a container have the image's "
                "Python; remove one of them"
            )
        if self.mpi and "mpi" not in launcher.machine_keys:
            raise ValueError(f"mpi is {self.mpi}, but starter {self.starter} does not use it; remove mpi")
        scheduler_keys = open_scheduler(self.scheduler).machine_keys if self.scheduler != "none" else ()
        if self.chunk and "chunk" not in scheduler_keys:
            raise ValueError(
                f"chunk is an entry of PBS's select, but scheduler is {self.scheduler}; remove chunk"
            )
        if self.gpus_per_node and (self.ranks_per_node or 0) > self.gpus_per_node:
            raise ValueError(
                f"ranks_per_node is {self.ranks_per_node}, but gpus_per_node is {self.gpus_per_node}; start "
                "at most one rank per GPU"
            )
        if self.gpu_numa and len(self.gpu_numa) != self.gpus_per_node:
            raise ValueError(
                f"gpu_numa names {len(self.gpu_numa)} GPUs, but gpus_per_node is {self.gpus_per_node}; give "
                "one NUMA node for each GPU"
            )
        return self

    @property
    def cores_per_rank(self) -> int | None:
        """Cores of each rank on a full node; None where the machine file does not give cores."""
        if not self.cores_per_node or not self.ranks_per_node:
            return None
        return max(1, self.cores_per_node // self.ranks_per_node)


def read_machine(name_or_path: str) -> Machine:
    """Return the machine of a file, or of a name that comes with the package: ``local``.

    Raises:
        JobError: there is neither (names the nearest), or for the first thing in the file that is wrong.
    """
    path = find_machine(name_or_path)
    values = read_yaml(path)
    named = [values.get(key) for key in ("scheduler", "starter")]
    if "code" not in values and any(isinstance(name, str) and is_path(name) for name in named):
        values["code"] = str(path.absolute().parent)
    if isinstance(values.get("code"), str):
        search_folder(os.path.expanduser(os.path.expandvars(values["code"])))
    return checked(Machine, values, str(path))


def packaged_machines() -> dict[str, Path]:
    """Return the machine files that come with the package, by name."""
    return {path.stem: path for path in sorted((launch_dir() / "machines").glob("*.yaml"))}


def find_machine(name_or_path: str) -> Path:
    """Return the path of a machine file. Raises JobError if there is none."""
    packaged = packaged_machines()
    # os.path: a name too long for the file system is no file; Path.is_file would raise.
    if os.path.isfile(name_or_path):
        return Path(name_or_path)
    if name_or_path in packaged:
        return packaged[name_or_path]
    known = nearest(Path(name_or_path).stem, packaged)
    raise JobError(
        f"{name_or_path}: no such machine file, and no machine of that name comes with the package; {known}"
    )


def detect_machine(host: str) -> str | None:
    """Return the machine of the package that a host is a login node of, by the host's whole name."""
    for name, path in packaged_machines().items():
        pattern = read_machine(str(path)).login_hosts
        if pattern and re.fullmatch(pattern, host):
            return name
    return None


def list_machines() -> str:
    """Return a table of the machines that come with the package."""
    rows = [("machine", "scheduler", "starter", "ranks a node", "GPUs a node", "file")]
    for name, path in packaged_machines().items():
        machine = read_machine(str(path))
        gpus = f"{machine.gpus_per_node} {machine.gpu_type or ''}".strip() if machine.gpus_per_node else "-"
        ranks = str(machine.ranks_per_node or "any")
        rows.append((name, machine.scheduler, machine.starter, ranks, gpus, str(path)))
    return format_table(rows)
