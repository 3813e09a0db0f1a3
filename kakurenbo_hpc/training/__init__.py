"""Training: model, criterion, optimizer, schedule, the steps of one rank and their per-sample statistics."""

from __future__ import annotations

from typing import Any

from ..config.registry import Registry

# Named here, without torch, for login nodes.
MODELS: Registry[Any] = Registry(
    "model.name",
    {
        "small_cnn": f"{__name__}.model:SmallCnn",
        "deepcam_deeplabv3plus": f"{__name__}.deeplab:DeepLab",
        "upernet": f"{__name__}.upernet:UperNet",
    },
    "kakurenbo_hpc.models",
)
TORCH_OPTIMIZERS = ("sgd", "adam", "adamw")
"""Optimizers that are built without timm."""
