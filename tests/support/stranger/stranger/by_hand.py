"""One rank, without any starter: a launcher of another package."""

from kakurenbo_hpc.cluster.launchers.launcher import CommandLine, Launcher
from kakurenbo_hpc.errors import UserError


class ByHand(Launcher):
    """Runs the program itself."""

    uses_mpi = False

    def command_line(self, machine, layout, program, environ):
        if layout.n_ranks != 1:
            raise UserError(f"by_hand starts one rank, not {layout.n_ranks}; choose another starter")
        return CommandLine(program, dict(machine.environment))
