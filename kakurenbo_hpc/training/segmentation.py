"""How well predicted masks cover the true ones: intersection over union, IoU, of each class."""

from __future__ import annotations

import numpy as np
import torch

CORRECT_IOU = 0.7  # above 2/3: of three classes, none may be missed altogether


def overlap(predicted: torch.Tensor, target: torch.Tensor, n_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pixels in the intersection and in the union of each class, (k, C) int64 each.

    predicted, target: (k, H, W) int64.
    """
    classes = torch.arange(n_classes, device=target.device)[:, None, None]
    found, true = predicted[:, None] == classes, target[:, None] == classes
    return (found & true).sum((2, 3)), (found | true).sum((2, 3))


def mean_iou(intersection: torch.Tensor, union: torch.Tensor) -> torch.Tensor:
    """Return (k,) float32, each image's mean over classes; a class that is neither there nor found counts 1.

    Source: the MLPerf HPC reference of DeepCAM, utils/metric.py.
    """
    return torch.where(union > 0, intersection / union, 1).mean(1)


def corpus_iou(intersection: np.ndarray, union: np.ndarray) -> float:
    """Return the mean over classes of the IoU of all images taken as one; (C,) int64 each, of all ranks. Empty counts 1."""
    return float(np.divide(intersection, union, out=np.ones(len(union)), where=union > 0).mean())
