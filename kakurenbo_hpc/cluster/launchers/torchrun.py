"""torchrun: ranks without any MPI, here or, by one agent on each node that srun starts, under Slurm."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...errors import UserError
from .launcher import CommandLine, Launcher, Layout
from .srun import INTERRUPT_SIGNAL, STEP_FLAGS, node_flags

if TYPE_CHECKING:
    from ..machine import Machine

# torchrun's own code is 1, whatever that of its ranks; each agent prints it in a table, the cause last.
ROOT_CAUSE = re.compile(r"Root Cause .* host : (\S+) rank : (\d+) \(local_rank: \d+\) exitcode : (-?\d+)")
EXIT_CODE = re.compile(r"\s*exitcode\s+: (-?\d+)")


class Torchrun(Launcher):
    """torch.distributed.run."""

    uses_mpi = False
    variables = "TORCHELASTIC_.*|(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)"

    def check_nodes(self, machine: Machine, n_nodes: int) -> None:
        """Raise UserError for several nodes without Slurm, whose srun starts an agent on each."""
        if n_nodes > 1 and machine.scheduler != "slurm":
            raise UserError(
                f"{machine.name}: torchrun starts on {n_nodes} nodes through Slurm only, but scheduler is "
                f"{machine.scheduler}; set starter to mpirun"
            )

    def check_here(self, environ: Mapping[str, str]) -> None:
        """Raise UserError if this node's name in Slurm, at which agents meet, does not resolve."""
        name = environ.get("SLURMD_NODENAME")
        try:
            socket.getaddrinfo(name, None) if name else None
        except OSError as problem:
            raise UserError(
                f"torchrun's agents meet at {name}, Slurm's name of this node, which does not resolve "
                f"({problem.strerror}); set starter to srun or mpirun, or ask the site"
            ) from None

    def command_line(
        self, machine: Machine, layout: Layout, program: list[str], environ: Mapping[str, str]
    ) -> CommandLine:
        """Return the torchrun line, on several nodes behind srun."""
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--no-python"]
        # Its own restarts would know nothing of checkpoints.
        torchrun += [f"--nproc-per-node={layout.n_per_node}", "--max-restarts=0"]
        if (layout.n_nodes or 1) == 1:
            return CommandLine([*torchrun, "--standalone", *program], machine.environment)
        several = f"{machine.name}: torchrun starts on {layout.n_nodes} nodes"
        if "SLURM_JOB_ID" not in environ:
            raise UserError(f"{several} through Slurm only; set starter to mpirun")
        if "SLURMD_NODENAME" not in environ:
            raise UserError(f"{several} from a batch script only; use kakurenbo submit")
        agents = ["srun", f"--nodes={layout.n_nodes}", f"--ntasks={layout.n_nodes}", "--ntasks-per-node=1"]
        agents += [*node_flags(layout), *STEP_FLAGS]
        agents += [f"--cpus-per-task={machine.cores_per_node}"] if machine.cores_per_node else []
        # Jobs of one node may run side by side, and an agent of the attempt before may still listen: each
        # attempt meets at a port of its own, and under a name of its own.
        job_id, nth = int(environ["SLURM_JOB_ID"]), layout.attempt - 1
        here = environ["SLURMD_NODENAME"]
        host = here if here in layout.hosts or not layout.hosts else layout.hosts[0]
        endpoint = f"{host}:{20000 + (job_id + 97 * nth) % 10000}"
        torchrun += [f"--nnodes={layout.n_nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}"]
        torchrun += [f"--rdzv-id={job_id}{f'.{nth}' if nth else ''}"]
        return CommandLine([*agents, *torchrun, *program], machine.environment, INTERRUPT_SIGNAL)
