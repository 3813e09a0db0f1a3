"""The job's way to average gradients: DDP or Horovod. Neither is loaded before it is wanted."""

from __future__ import annotations

from ..errors import WorldError
from ..job import WorldOptions
from .comm import Serial
from .gradients import Gradients
from .world import World


def open_gradients(options: WorldOptions, accumulate: int, world: World) -> Gradients:
    """Return the job's way to average gradients, after each ``accumulate`` backward passes.

    Raises WorldError, on all ranks alike, if these ranks have no such way.
    """
    if options.gradients == "horovod":
        return world.comm.agreed(lambda: _horovod(options, accumulate, world))
    from .ddp import Ddp

    return Ddp(world)


def _horovod(options: WorldOptions, accumulate: int, world: World) -> Gradients:
    if world.comm.mpi is None:
        found = "this is one process alone" if isinstance(world.comm, Serial) else "torchrun started these"
        raise WorldError(
            f"world.gradients is horovod, which works among MPI's ranks, but {found}; start with mpirun or srun, or set it to ddp"
        )
    try:
        from .horovod import Horovod
    except ImportError as problem:
        raise WorldError(
            f"world.gradients is horovod, which does not load here ({' '.join(str(problem).split())}); "
            "build it with scripts/install_horovod.sh, or set it to ddp"
        ) from None
    return Horovod(options, accumulate, world)
