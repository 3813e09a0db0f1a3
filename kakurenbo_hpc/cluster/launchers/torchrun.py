"""torchrun: ranks without any MPI, here or, by one agent on each node that srun starts, under Slurm."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...errors import UserError
from .launcher import CommandLine, Launcher, Layout
from .srun import INTERRUPT_SIGNAL, STEP_FLAGS

if TYPE_CHECKING:
    from ..machine import Machine


class Torchrun(Launcher):
    """torch.distributed.run."""

    uses_mpi = False

    def command_line(
        self, machine: Machine, layout: Layout, program: list[str], environ: Mapping[str, str]
    ) -> CommandLine:
        """Return the torchrun line, on several nodes behind srun."""
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--no-python"]
        torchrun += [f"--nproc-per-node={layout.n_per_node}"]
        if (layout.n_nodes or 1) == 1:
            return CommandLine([*torchrun, "--standalone", *program], machine.environment)
        several = f"{machine.name}: torchrun starts on {layout.n_nodes} nodes"
        if "SLURM_JOB_ID" not in environ:
            raise UserError(f"{several} through Slurm only; set starter to mpirun")
        if "SLURMD_NODENAME" not in environ:
            raise UserError(f"{several} from a batch script only; use kakurenbo submit")
        agents = ["srun", f"--nodes={layout.n_nodes}", f"--ntasks={layout.n_nodes}", "--ntasks-per-node=1"]
        agents += STEP_FLAGS
        agents += [f"--cpus-per-task={machine.cores_per_node}"] if machine.cores_per_node else []
        # Jobs of one node may run side by side: each meets at a port of its own.
        job_id = environ["SLURM_JOB_ID"]
        endpoint = f"{environ['SLURMD_NODENAME']}:{20000 + int(job_id) % 10000}"
        torchrun += [f"--nnodes={layout.n_nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}"]
        torchrun += [f"--rdzv-id={job_id}"]
        return CommandLine([*agents, *torchrun, *program], machine.environment, INTERRUPT_SIGNAL)
