"""flux run: Flux's own launcher, inside a job.

Source: the manual page flux-run(1) of flux-core, of 2026-08-18. No Flux has been at hand to try it on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .launcher import CommandLine, Launcher, Layout

if TYPE_CHECKING:
    from ..machine import Machine


class Flux(Launcher):
    """flux run of Flux."""

    machine_keys = frozenset({"mpi"})
    variables = "FLUX_.*"

    def check_machine(self, machine: Machine) -> None:
        """Raise ValueError unless the machine's scheduler is Flux."""
        if machine.scheduler != "flux":
            raise ValueError(
                f"starter is flux, but scheduler is {machine.scheduler}; set it to flux, or start with mpirun"
            )

    def can_start_here(self, environ: Mapping[str, str]) -> bool:
        """Whether this is inside a Flux instance."""
        return "FLUX_URI" in environ

    def command_line(
        self, machine: Machine, layout: Layout, program: list[str], environ: Mapping[str, str]
    ) -> CommandLine:
        """Return the flux line: whole nodes, whose GPUs and cores bind_rank deals out."""
        flags = [f"--nodes={layout.n_nodes or 1}", f"--tasks-per-node={layout.n_per_node}", "--exclusive"]
        flags += [f"--requires=host:{','.join(layout.hosts)}"] if layout.hosts else []
        # Ranks that leave with 75 do not end the others, but none outlives another by more than ten seconds.
        flags += ["--setopt=exit-timeout=10s", "--setopt=cpu-affinity=off", "--setopt=gpu-affinity=off"]
        flags += [f"--setopt=pmi={machine.mpi}"] if machine.mpi else []
        return CommandLine(["flux", "run", *flags, *program], machine.environment)
