"""MixUp and CutMix: training inputs mixed of two samples, with soft targets."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..config.training_options import Training
from ..core.torchvision_compat import transforms
from ..errors import JobError


def build_mix(training: Training, n_classes: int, target_shape: Sequence[int]) -> nn.Module | None:
    """Return torchvision's MixUp or CutMix; None where the job has neither.

    It turns targets (k,) into soft ones (k, C). Its draws follow torch's generator, which is seeded at every
    step.

    Raises:
        JobError: the data has masks.
    """
    if not (training.mixup or training.cutmix):
        return None
    if target_shape:
        raise JobError(
            "training.mixup and training.cutmix are for class labels, but the data has masks; set both to 0"
        )
    mix = transforms().CutMix if training.cutmix else transforms().MixUp
    return mix(alpha=training.mixup or training.cutmix, num_classes=n_classes)
