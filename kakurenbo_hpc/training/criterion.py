"""The loss of each sample by itself: what is learned from, and what stands in the ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from ..config.job import Training
from ..errors import JobError

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def build_criterion(
    training: Training, n_classes: int, device: torch.device, target_shape: Sequence[int] = ()
) -> Criterion:
    """Return the job's criterion: logits (k, C) and targets (k,) or soft targets (k, C) in, float32 losses (k,) out.

    With target_shape (H, W), logits (k, C, H, W) and masks (k, H, W) in; a sample's loss is the mean over its pixels, each
    times its class's weight: divided by the number of pixels, not by the sum of weights, as in the MLPerf HPC reference.
    Raises JobError if the class weights are not one for each class, or focal loss is asked of masks.
    """
    if training.criterion == "focal" and target_shape:
        raise JobError(
            "training.criterion is focal, which is for class labels, but the data has masks; choose cross_entropy"
        )
    weight = None
    if training.class_weights is not None:
        if len(training.class_weights) != n_classes:
            raise JobError(
                f"training.class_weights has {len(training.class_weights)} numbers, but the data has {n_classes} classes; give one each"
            )
        weight = torch.tensor(training.class_weights, device=device)

    def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return by_sample(
            F.cross_entropy(
                logits.float(), target, weight, reduction="none", label_smoothing=training.label_smoothing
            )
        )

    def focal(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """-alpha[y] (1 - p[y])^gamma log p[y] (Lin et al. 2017). A p[y] that rounds to 1 has loss and gradient 0."""
        surprise = F.cross_entropy(logits.float(), target, reduction="none")
        loss = (-torch.expm1(-surprise)).clamp_min(1e-12) ** training.focal_gamma * surprise
        return loss if weight is None else loss * weight[target]

    return focal if training.criterion == "focal" else cross_entropy


def by_sample(values: torch.Tensor) -> torch.Tensor:
    """Return the (k,) means over each sample's pixels, if there are any. values: (k,) or (k, H, W)."""
    return values if values.dim() == 1 else values.flatten(1).mean(1)


def weighted_sum(losses: torch.Tensor, weight: np.ndarray) -> torch.Tensor:
    """Return the sum of weight x loss over the finite losses."""
    weights = torch.from_numpy(weight).to(losses.device, non_blocking=True)
    return torch.where(torch.isfinite(losses), losses * weights, 0).sum()
