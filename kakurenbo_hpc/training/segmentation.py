"""How well predicted masks cover the true ones: intersection over union, IoU, of each class."""

from __future__ import annotations

import numpy as np
import torch

CORRECT_IOU = 0.7  # above 2/3: of three classes, none may be missed altogether


def overlap(
    predicted: torch.Tensor, target: torch.Tensor, n_classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pixels in the intersection and in the union of each class, (k, C) int64 each.

    predicted, target: (k, H, W) int64.
    """
    classes = torch.arange(n_classes, device=target.device)[:, None, None]
    found, true = predicted[:, None] == classes, target[:, None] == classes
    return (found & true).sum((2, 3)), (found | true).sum((2, 3))


def mean_iou(
    intersection: torch.Tensor | np.ndarray, union: torch.Tensor | np.ndarray
) -> torch.Tensor | np.ndarray:
    """Return (k,), each image's mean over classes; a class that is neither there nor found counts 1.

    intersection, union: (k, C) integers, tensors or arrays alike.

    Source: the MLPerf HPC reference of DeepCAM, utils/metric.py.
    """
    empty = union == 0
    return ((intersection + empty) / (union + empty)).mean(1)
