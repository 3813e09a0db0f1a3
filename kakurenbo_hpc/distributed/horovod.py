"""Gradient averaging by Horovod, which calls MPI from a thread of its own."""

from __future__ import annotations

import os

import horovod.torch as hvd
import torch
from mpi4py import MPI
from torch import nn

from ..config.job import WorldOptions
from ..errors import WorldError
from .gradient_sync import GradientSync
from .libmpi import loaded_mpi
from .world import World


class HorovodSync(GradientSync):
    """Averages every gradient as soon as the last accumulated backward pass has computed it."""

    def __init__(self, options: WorldOptions, accumulate: int, world: World):
        """Raises WorldError if this Horovod, or this MPI, is not one that works here."""
        self._options, self._accumulate, self._world = options, accumulate, world
        if not hvd.mpi_built():
            raise WorldError(
                "this Horovod was built without MPI; build it anew with scripts/install_horovod.sh, or set "
                "world.gradients to ddp"
            )
        libraries = loaded_mpi()
        if len(libraries) > 1:
            raise WorldError(
                "two MPI libraries in one process, mpi4py's and Horovod's: "
                f"{', '.join(map(str, libraries))}; "
                "build Horovod against mpi4py's with scripts/install_horovod.sh"
            )
        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise WorldError(
                "world.gradients is horovod, which calls MPI from a thread of its own, but this MPI was "
                "not started for that "
                "(MPI_THREAD_MULTIPLE); unset MPI4PY_RC_THREAD_LEVEL, with MVAPICH2 set "
                "MV2_ENABLE_AFFINITY=0, or use ddp"
            )

    def wrap(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, sync_batchnorm: bool = False
    ) -> nn.Module:
        """Return the model itself: Horovod hooks into its parameters. Optimizer state becomes rank 0's."""
        if self._world.device.type == "cpu":
            # Tensors are joined as they happen to come, and MPI's order of summation follows: runs would
            # differ in the last bits.
            os.environ.setdefault("HOROVOD_FUSION_THRESHOLD", "0")
        hvd.init(comm=self._world.comm.mpi)
        hvd.broadcast_parameters(model.state_dict(), root_rank=0)
        # Not broadcast_optimizer_state: that takes a step of zero gradients first, and weight decay would
        # move the weights.
        optimizer.load_state_dict(hvd.broadcast_object(optimizer.state_dict(), root_rank=0))
        # DistributedOptimizer makes an optimizer anew from its parameter groups, and loses all that timm's
        # keep elsewhere. So it
        # is given one that never steps: it averages, and the job's own optimizer steps.
        self._averaging = hvd.DistributedOptimizer(
            torch.optim.SGD(model.parameters(), lr=0.0),
            named_parameters=model.named_parameters(),
            compression=getattr(hvd.Compression, self._options.compression),
            backward_passes_per_step=self._accumulate,
            gradient_predivide_factor=self._options.gradient_predivide_factor,
        )
        return model

    def average(self, model: nn.Module) -> None:
        """Do nothing: hooks see every backward pass, and ``finish`` sends what they held back."""

    def finish(self) -> None:
        self._averaging.synchronize()

    def close(self) -> None:
        self._averaging = None
        hvd.shutdown()
