"""PALS: the mpiexec of HPE Cray machines under PBS, which starts ranks of Cray MPICH."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..doctor.check_warning import CheckWarning
from .launcher import CommandLine, Launcher, Layout
from .mpirun import find_mpirun, mpi_make

if TYPE_CHECKING:
    from ..machine import Machine


class Pals(Launcher):
    """mpiexec of PALS.

    Source: https://docs.alcf.anl.gov/polaris/running-jobs/, of 2026-08-19: ``mpiexec -n ${NTOTRANKS} --ppn
    ${NRANKS_PER_NODE} --depth=${NDEPTH} --cpu-bind depth``.
    """

    variables = "(PALS|PMI)_.*"

    def command_line(
        self, machine: Machine, layout: Layout, program: list[str], environ: Mapping[str, str]
    ) -> CommandLine:
        """Return the mpiexec line. Where bind_rank deals out cores by the GPUs' NUMA nodes, PALS does not."""
        hosts = ["--hosts", ",".join(layout.hosts)] if layout.hosts else []
        binding = ["--cpu-bind", "none"]
        if machine.cores_per_rank and not machine.gpu_numa:
            binding = [f"--depth={machine.cores_per_rank}", "--cpu-bind", "depth"]
        words = [find_mpirun("mpiexec"), "-n", str(layout.n_ranks), "--ppn", str(layout.n_per_node)]
        return CommandLine([*words, *hosts, *binding, *program], machine.environment)

    def check_mpi(self, machine: Machine, library: str) -> str:
        """Warn of an MPI library that PALS does not start."""
        if mpi_make(library) != "MPICH or its kin":
            raise CheckWarning(
                f"mpi4py loads {library}, but PALS starts ranks of Cray MPICH; build mpi4py with cray-mpich "
                "loaded: pip install --force-reinstall --no-binary mpi4py mpi4py"
            )
        return f"{library}, {find_mpirun('mpiexec')}"
