"""Intersection over union (IoU) of predicted and true masks."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

Counts = TypeVar("Counts", torch.Tensor, np.ndarray)

CORRECT_IOU = 0.7  # above 2/3: a sample that misses one of three classes altogether is wrong


def overlap(
    predicted: torch.Tensor, target: torch.Tensor, n_classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the numbers of pixels in the intersection and in the union of each class, (k, C) int64 each.

    Args:
        predicted: (k, H, W) int64.
        target: (k, H, W) int64.
        n_classes: C.
    """
    classes = torch.arange(n_classes, device=target.device)[:, None, None]
    in_predicted, in_target = predicted[:, None] == classes, target[:, None] == classes
    return (in_predicted & in_target).sum((2, 3)), (in_predicted | in_target).sum((2, 3))


def mean_iou(intersection: Counts, union: Counts) -> Counts:
    """Return each image's mean IoU over classes, (k,); a class that is in neither mask counts 1.

    Args:
        intersection: (k, C) integers, tensors or arrays alike.
        union: (k, C) integers.

    Source: the MLPerf HPC reference of DeepCAM, utils/metric.py.
    """
    empty = union == 0
    return ((intersection + empty) / (union + empty)).mean(1)
