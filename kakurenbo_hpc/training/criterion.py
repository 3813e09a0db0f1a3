"""Training criteria: the loss of every sample, which is trained on and kept in the ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from ..config.training_options import Training
from ..errors import JobError
from .segmentation import is_class

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def build_criterion(
    training: Training, n_classes: int, device: torch.device, target_shape: Sequence[int] = ()
) -> Criterion:
    """Return the job's criterion, a function from logits and targets to float32 losses (k,).

    Logits are (k, C), and targets are classes (k,) or soft targets (k, C). With a ``target_shape`` (H, W),
    logits are (k, C, H, W) and targets masks (k, H, W). A sample's loss is then the mean over its pixels,
    each times the weight of its class: divided by the number of pixels, not by the sum of weights, as in the
    MLPerf HPC reference. A target of -100 is ignored.

    Raises:
        JobError: there is not one class weight per class, or the criterion is focal and the data has masks.
    """
    if training.criterion == "focal" and target_shape:
        raise JobError(
            "training.criterion is focal, which is for class labels, but the data has masks; choose "
            "cross_entropy"
        )
    weight = None
    if training.class_weights is not None:
        if len(training.class_weights) != n_classes:
            raise JobError(
                f"training.class_weights has {len(training.class_weights)} numbers, but the data has "
                f"{n_classes} classes; "
                "give one each"
            )
        weight = torch.tensor(training.class_weights, device=device)

    def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        smoothing = training.label_smoothing
        losses = F.cross_entropy(logits.float(), target, weight, reduction="none", label_smoothing=smoothing)
        return losses if target.is_floating_point() else mean_over_valid(losses, is_class(target, n_classes))

    def focal(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return -alpha[y] (1 - p[y])^gamma log p[y] (Lin et al. 2017); 0 where p[y] rounds to 1."""
        minus_log_p = F.cross_entropy(logits.float(), target, reduction="none")
        loss = (-torch.expm1(-minus_log_p)).clamp_min(1e-12) ** training.focal_gamma * minus_log_p
        return loss if weight is None else loss * weight[target]

    return focal if training.criterion == "focal" else cross_entropy


def mean_over_valid(values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Return the mean over each sample's valid positions, (k,); NaN for a sample that has none.

    The gradient of what is ignored is 0.

    Args:
        values: (k,), or (k, ...) such as those of pixels.
        valid: bool of the same shape.
    """
    n = valid[:, None].flatten(1).sum(1)
    total = values.masked_fill(~valid, 0)[:, None].flatten(1).sum(1)
    return (total / n.clamp_min(1)).masked_fill(n == 0, torch.nan)


def weighted_sum(losses: torch.Tensor, weight: np.ndarray) -> torch.Tensor:
    """Return the sum of weight x loss, both (k,), over the finite losses."""
    weights = torch.from_numpy(weight)
    if losses.is_cuda:
        weights = weights.pin_memory().to(losses.device, non_blocking=True)
    return (losses * weights).masked_fill(~torch.isfinite(losses), 0).sum()
