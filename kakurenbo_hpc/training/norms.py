"""Normalisation layers by name, and the average of BatchNorm's running statistics over ranks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..distributed.comm import Comm

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "group": lambda width: nn.GroupNorm(min(8, width), width),
    "batch": nn.BatchNorm2d,
    "none": lambda width: nn.Identity(),
}


def replace_batchnorm(module: nn.Module, norm: str) -> None:
    """Replace every BatchNorm inside the module by this norm."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, NORMS[norm](child.num_features))
        else:
            replace_batchnorm(child, norm)


def set_momentum(model: nn.Module, momentum: float) -> None:
    """Set the momentum of every BatchNorm of the model: the share of the new batch in its statistics."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum


def float_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the model's buffers of floating point by name: BatchNorm's running statistics."""
    return {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}


def average_statistics(model: nn.Module, comm: Comm) -> None:
    """Make BatchNorm's running statistics the mean over ranks, in float64. One allreduce."""
    statistics = list(float_buffers(model).values())
    if comm.size == 1 or not statistics:
        return
    flat = torch.cat([buffer.flatten().double() for buffer in statistics]).cpu().numpy()
    mean = torch.from_numpy(comm.sum(flat) / comm.size)
    for buffer, part in zip(statistics, mean.split([b.numel() for b in statistics]), strict=True):
        buffer.copy_(part.view_as(buffer))
