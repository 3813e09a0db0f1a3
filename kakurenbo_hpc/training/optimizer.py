"""Optimizers by name, PyTorch's or timm's, over parameter groups with and without weight decay."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn

from ..config.training_options import Training
from ..core.torchvision_compat import timm
from ..errors import JobError, nearest
from . import TORCH_OPTIMIZERS


def build_optimizer(training: Training, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Return the job's optimizer over the model's parameters.

    Biases and norms are without weight decay, unless the job says otherwise. The optimizers of PyTorch that
    most jobs use are built without timm, whose import takes seconds. They are what
    ``timm.optim.create_optimizer_v2`` builds.

    Raises:
        JobError: no optimizer has this name, or it does not take the job's options.
    """
    if training.nesterov and training.optimizer == "sgd" and not training.momentum:
        raise JobError(
            "training.nesterov is true, but training.momentum is 0; set momentum above 0, or nesterov to "
            "false"
        )
    check_optimizer_name(training.optimizer)
    try:
        return _build(training, model, lr)
    except (TypeError, ValueError) as problem:
        raise JobError(
            f"training.optimizer is {training.optimizer} with optimizer_options "
            f"{training.optimizer_options}, which it does not take ({problem}); change them"
        ) from None


def _build(training: Training, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    options = training.optimizer_options
    torchs = {**_fused_on_gpus(model, options), **options}
    groups = parameter_groups(model, training.weight_decay, training.decay_norms)
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr, training.momentum, nesterov=training.nesterov, **torchs)
    if training.optimizer == "adam":
        return torch.optim.Adam(groups, lr, **torchs)
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr, weight_decay=0.0, **torchs)
    return timm().optim.create_optimizer_v2(
        model,
        opt=training.optimizer,
        lr=lr,
        weight_decay=training.weight_decay,
        momentum=training.momentum,
        filter_bias_and_bn=not training.decay_norms,
        **options,
    )


def _fused_on_gpus(model: nn.Module, options: Mapping[str, Any]) -> dict[str, bool]:
    """Return fused for networks on GPUs, so that steps need not wait for the device; see ``FiniteSteps``."""
    is_chosen = options.keys() & {"fused", "foreach", "capturable", "differentiable"}
    return {} if is_chosen or not all(p.is_cuda for p in model.parameters()) else {"fused": True}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Restore an optimizer's state, perhaps of another device: it stays fused, or not, as it is here."""
    pairs = zip(state["param_groups"], optimizer.param_groups, strict=True)
    groups = [{**saved, "fused": own["fused"]} if "fused" in own else saved for saved, own in pairs]
    optimizer.load_state_dict({**state, "param_groups": groups})


def check_optimizer_name(name: str) -> None:
    """Raise JobError, with the nearest names, if no optimizer has this name. Imports timm for most."""
    if name in TORCH_OPTIMIZERS:
        return
    names = timm().optim.list_optimizers()
    if name not in names:
        raise JobError(f"training.optimizer is {name!r}, which is unknown; {nearest(name, names)}")


def parameter_groups(
    model: nn.Module, weight_decay: float, decay_norms: bool = False
) -> list[dict[str, Any]]:
    """Return the trainable parameters in up to two groups: without weight decay, then with it.

    Without ``decay_norms``, biases and vectors, such as those of norms, do not decay, nor do the parameters
    whose names match what the model's ``no_weight_decay()`` returns. Source: timm's
    ``param_groups_weight_decay``.
    """
    if decay_norms:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return [{"params": parameters, "weight_decay": weight_decay}]
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
