"""Gradient averaging over ranks: the `GradientSync` interface; implementations are DDP and Horovod."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import nn

from ..config.job import WorldOptions
from ..errors import WorldError
from .comm import SerialComm
from .world import World


class GradientSync(ABC):
    """Averages the gradients of one model over all ranks. All calls but ``hold`` are collective."""

    @abstractmethod
    def wrap(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, sync_batchnorm: bool = False
    ) -> nn.Module:
        """Return the module to call in training; parameters become rank 0's. Called before the first step.

        sync_batchnorm: let BatchNorm see the whole global batch; its layers are replaced inside the model.
        """

    def stabilize_buckets(self, parallel: nn.Module, forward: Callable[[], torch.Tensor]) -> None:
        """Settle the gradient buckets, so that a resumed run adds in the order of the uninterrupted one.

        forward: passes an example through ``parallel``, as steps do. Nothing but the exchange itself changes.
        """

    def hold(self, parallel: nn.Module) -> contextlib.AbstractContextManager:
        """Return a context without averaging, for all but the last accumulated batch of a step."""
        return contextlib.nullcontext()

    @abstractmethod
    def average(self, model: nn.Module) -> None:
        """Begin to average the gradients that a backward pass outside the wrapper left."""

    def finish(self) -> None:
        """Return when gradients are averaged: before anybody reads them, the loss scaler too."""

    @abstractmethod
    def close(self) -> None:
        """Part from the other ranks, all together, when nothing that was wrapped is in use any more."""


def open_gradient_sync(options: WorldOptions, accumulate: int, world: World) -> GradientSync:
    """Return the job's way to average gradients, after each ``accumulate`` backward passes.

    Raises WorldError, on all ranks alike, if these ranks have no such way.
    """
    if options.gradients == "horovod":
        return world.comm.run_or_raise_together(lambda: _horovod(options, accumulate, world))
    from .ddp import DdpSync

    return world.comm.run_or_raise_together(lambda: DdpSync(world, options))


def _horovod(options: WorldOptions, accumulate: int, world: World) -> GradientSync:
    if world.comm.mpi is None:
        found = (
            "this is one process alone" if isinstance(world.comm, SerialComm) else "torchrun started these"
        )
        raise WorldError(
            f"world.gradients is horovod, which works among MPI's ranks, but {found}; start with mpirun or "
            "srun, or set it to ddp"
        )
    try:
        from .horovod import HorovodSync
    except ImportError as problem:
        raise WorldError(
            f"world.gradients is horovod, which does not load here ({' '.join(str(problem).split())}); "
            "build it with scripts/install_horovod.sh, or set it to ddp"
        ) from None
    return HorovodSync(options, accumulate, world)
