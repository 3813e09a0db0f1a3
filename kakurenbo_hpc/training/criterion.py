"""The loss of each sample by itself: what is learned from, and what stands in the ledger."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import JobError
from ..job import Training

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def build_criterion(training: Training, n_classes: int, device: torch.device) -> Criterion:
    """Return the job's criterion: logits (k, C) and targets (k,) or soft targets (k, C) in, float32 losses (k,) out.

    Raises JobError if the class weights are not one for each class.
    """
    weight = None
    if training.class_weights is not None:
        if len(training.class_weights) != n_classes:
            raise JobError(f"training.class_weights has {len(training.class_weights)} numbers, but the data has {n_classes} classes; give one each")
        weight = torch.tensor(training.class_weights, device=device)

    def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits.float(), target, weight, reduction="none", label_smoothing=training.label_smoothing)

    def focal(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """-alpha[y] (1 - p[y])^gamma log p[y] (Lin et al. 2017). A p[y] that rounds to 1 has loss and gradient 0."""
        surprise = F.cross_entropy(logits.float(), target, reduction="none")
        loss = (-torch.expm1(-surprise)).clamp_min(1e-12) ** training.focal_gamma * surprise
        return loss if weight is None else loss * weight[target]

    return focal if training.criterion == "focal" else cross_entropy


def weighted_sum(losses: torch.Tensor, weight: np.ndarray) -> torch.Tensor:
    """Return the sum of weight x loss over the finite losses."""
    weights = torch.from_numpy(weight).to(losses.device, non_blocking=True)
    return torch.where(torch.isfinite(losses), losses * weights, 0).sum()
