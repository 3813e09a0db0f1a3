"""Optimizers by name, PyTorch's or timm's, over parameter groups with and without weight decay."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn

from ..config.job import Training
from ..core.torchvision_compat import timm
from ..errors import JobError, nearest
from . import TORCH_OPTIMIZERS


def build_optimizer(training: Training, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Return the job's optimizer over the model's parameters, without weight decay on biases and norms.

    The optimizers of PyTorch that most jobs use are built without timm, whose import takes seconds. They are
    what ``timm.optim.create_optimizer_v2`` builds.

    Raises:
        JobError: no optimizer has this name, or its options contradict each other.
    """
    if training.nesterov and training.optimizer == "sgd" and not training.momentum:
        raise JobError(
            "training.nesterov is true, but training.momentum is 0; set momentum above 0, or nesterov to "
            "false"
        )
    groups = parameter_groups(model, training.weight_decay)
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr, training.momentum, nesterov=training.nesterov)
    if training.optimizer == "adam":
        return torch.optim.Adam(groups, lr)
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr, weight_decay=0.0)
    check_optimizer_name(training.optimizer)
    return timm().optim.create_optimizer_v2(
        model,
        opt=training.optimizer,
        lr=lr,
        weight_decay=training.weight_decay,
        momentum=training.momentum,
    )


def check_optimizer_name(name: str) -> None:
    """Raise JobError, with the nearest names, if no optimizer has this name. Imports timm for most."""
    if name in TORCH_OPTIMIZERS:
        return
    names = timm().optim.list_optimizers()
    if name not in names:
        raise JobError(f"training.optimizer is {name!r}, which is unknown; {nearest(name, names)}")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trainable parameters in up to two groups: without weight decay, then with it.

    Biases and vectors, such as those of norms, never decay, nor do the parameters whose names match what the
    model's ``no_weight_decay()`` returns. Source: timm's ``param_groups_weight_decay``.
    """
    patterns: Collection[str] = getattr(model, "no_weight_decay", tuple)()
    constant: list[nn.Parameter] = []
    decaying: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_constant = parameter.ndim <= 1 or name.endswith(".bias") or any(fnmatch(name, p) for p in patterns)
        (constant if is_constant or not weight_decay else decaying).append(parameter)
    groups = ({"params": constant, "weight_decay": 0.0}, {"params": decaying, "weight_decay": weight_decay})
    return [group for group in groups if group["params"]]
