"""Intersection over union (IoU) of predicted and true masks."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F

Counts = TypeVar("Counts", torch.Tensor, np.ndarray)

CORRECT_IOU = 0.7  # above 2/3: a sample that misses one of three classes altogether is wrong


def is_class(target: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Return where the target is one of the C classes; every other integer marks what is ignored."""
    return (target >= 0) & (target < n_classes)


def at_size(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return logits (k, C, ...) at the size of the masks, where the images were of another."""
    if logits.shape[2:] == target.shape[1:]:
        return logits
    return F.interpolate(logits.float(), target.shape[1:], mode="bilinear")


def overlap(
    predicted: torch.Tensor, target: torch.Tensor, n_classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the numbers of positions in the intersection and in the union of each class, (k, C) int64 each.

    Positions whose target is not a class are in neither.

    Args:
        predicted: (k, ...) int64, such as masks (k, H, W).
        target: (k, ...) int64.
        n_classes: C.
    """
    valid = is_class(target, n_classes).flatten(1)
    predicted, target = predicted.flatten(1), target.flatten(1).masked_fill(~valid, 0)

    def count(classes: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
        return among.new_zeros(len(among), n_classes, dtype=torch.int64).scatter_add_(
            1, classes, among.long()
        )

    both = count(target, valid & (predicted == target))
    return both, count(predicted, valid) + count(target, valid) - both


def mean_iou(intersection: Counts, union: Counts) -> Counts:
    """Return each image's mean IoU over the classes that occur in either mask, (k,); NaN where none does.

    Our choice among two. The MLPerf HPC reference of DeepCAM (utils/metric.py) counts a class that is in
    neither mask as 1, so that with many classes an image that is mostly wrong counts as right.

    Args:
        intersection: (k, C) integers, tensors or arrays alike.
        union: (k, C) integers.
    """
    occurs = union > 0
    with np.errstate(invalid="ignore"):
        return (intersection / (union + ~occurs)).sum(1) / occurs.sum(1)
