"""What normalises channels between layers, by name."""

from __future__ import annotations

from torch import nn

NORMS = {
    "group": lambda width: nn.GroupNorm(min(8, width), width),
    "batch": nn.BatchNorm2d,
    "none": lambda width: nn.Identity(),
}


def replace_batchnorm(module: nn.Module, norm: str) -> None:
    """Put this norm in the place of every BatchNorm inside the module."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, NORMS[norm](child.num_features))
        else:
            replace_batchnorm(child, norm)
