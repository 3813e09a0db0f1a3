"""mpiexec: the same program as mpirun, by the name that sites with MPICH or Intel MPI prefer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .launcher import CommandLine, Launcher, Layout
from .mpirun import Mpirun, compare_mpi, installed_mpi_line

if TYPE_CHECKING:
    from ..machine import Machine


class Mpiexec(Launcher):
    """mpiexec of the MPI that is installed here."""

    variables = Mpirun.variables

    def command_line(
        self, machine: Machine, layout: Layout, program: list[str], environ: Mapping[str, str]
    ) -> CommandLine:
        """Return the mpiexec line."""
        return installed_mpi_line("mpiexec", machine, layout, program, environ)

    def check_mpi(self, machine: Machine, library: str) -> str:
        """Compare the makes of mpiexec and of the library."""
        return compare_mpi("mpiexec", library)
