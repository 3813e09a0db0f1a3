"""srun: Slurm's own launcher, inside an allocation."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...errors import UserError
from ..container import pyxis_flags
from ..doctor.check_warning import CheckWarning
from ..schedulers.commands import run_command
from .launcher import CommandLine, Launcher, Layout
from .mpirun import mpi_make

if TYPE_CHECKING:
    from ..machine import Machine

# By itself srun ends a step at the first code but 0, with 143: of ranks that leave with 75, the slower ones
# would be killed, and the run not requeued. But no rank outlives another by more than ten seconds.
# Cores are dealt out by bind_rank, within those of the job.
STEP_FLAGS = ["--kill-on-bad-exit=0", "--wait=10", "--cpu-bind=none"]


def node_flags(layout: Layout) -> list[str]:
    """Return what a step needs on some nodes of an allocation: the environment tells of all of them.

    A step that has lost a node still counts as running there: the next one overlaps it.
    """
    if not layout.hosts:
        return []
    return ["--overlap", "--no-kill", f"--nodelist={','.join(layout.hosts)}"]


# srun takes one INT for a question after its tasks, answers it and goes on.
INTERRUPT_SIGNAL = signal.SIGTERM

TASK_ENDED = re.compile(r"srun: error: (\S+): task(s?) ([\d,-]+): (\w+)(?: with exit code (\d+))?")
# After this line srun kills the step's other tasks.
NODE_LOST = re.compile(r"srun: error: Node failure on (\S+)")
# srun itself ends with 0 then.
NOT_STARTED = re.compile(r"srun: error: task (\d+) launch failed: (.*)")


class Srun(Launcher):
    """srun of Slurm."""

    machine_keys = frozenset({"mpi"})
    containers = frozenset({"apptainer", "pyxis"})

    def check_machine(self, machine: Machine) -> None:
        """Raise ValueError unless the machine's scheduler is Slurm."""
        if machine.scheduler != "slurm":
            raise ValueError(
                f"starter is srun, but scheduler is {machine.scheduler}; set it to slurm, or start with "
                "mpirun"
            )

    def can_start_here(self, environ: Mapping[str, str]) -> bool:
        """Whether this is inside an allocation."""
        return "SLURM_JOB_ID" in environ

    def command_line(
        self, machine: Machine, layout: Layout, program: list[str], environ: Mapping[str, str]
    ) -> CommandLine:
        """Return the srun line."""
        flags = [f"--nodes={layout.n_nodes or 1}", f"--ntasks={layout.n_ranks}"]
        flags += [f"--ntasks-per-node={layout.n_per_node}", *node_flags(layout), *STEP_FLAGS]
        if machine.cores_per_rank:
            flags += [f"--cpus-per-task={machine.cores_per_rank}"]  # srun does not take it over from sbatch
        if machine.mpi:
            flags += [f"--mpi={machine.mpi}"]
        flags += pyxis_flags(machine)
        return CommandLine(["srun", *flags, *program], machine.environment, INTERRUPT_SIGNAL)

    def check_mpi(self, machine: Machine, library: str) -> str:
        """Compare the plugin that the machine file names with the library and with what srun offers."""
        plugin, make = machine.mpi, mpi_make(library)
        done = run_command(["srun", "--mpi=list"])
        if done.returncode:
            raise CheckWarning(
                f"mpi4py loads {make}; whether srun serves it is not known, as it gives no answer to "
                "srun --mpi=list"
            )
        plugins = sorted(set(re.findall(r"\b(pmix\w*|pmi2|cray_shasta|none)\b", done.stdout + done.stderr)))
        if plugin is None:
            return f"{library}, srun with the site's default plugin"
        if plugin not in plugins:
            raise UserError(
                f"mpi is {plugin}, which this srun does not know; set it in the machine file to one of "
                f"{', '.join(plugins)}"
            )
        if plugin.startswith("pmix") and make.startswith("MPICH") or plugin == "pmi2" and make == "Open MPI":
            usual = "pmi2" if make.startswith("MPICH") else "pmix"
            raise CheckWarning(
                f"mpi is {plugin}, but ranks of {make} mostly meet by {usual}; set mpi in the machine file, "
                "or test it with --ranks"
            )
        return f"{library}, srun --mpi={plugin}"
