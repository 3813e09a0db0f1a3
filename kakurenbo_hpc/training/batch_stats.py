"""Per-sample statistics of forward passes: kept on the device until the pass is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import DTypeLike

from ..core.batch import MicroBatch
from ..core.sample_stats import SampleStats
from .criterion import mean_over_valid
from .gradient_norm import LastInput
from .segmentation import CORRECT_IOU, is_class, mean_iou, overlap


@dataclass(frozen=True)
class BatchStats:
    """The statistics of one batch, on its device and perhaps still being computed.

    Attributes:
        micro_batch: which samples.
        columns: (k, ...) each, by name; see ``columns``.
    """

    micro_batch: MicroBatch
    columns: dict[str, torch.Tensor]


def batch_stats(
    micro_batch: MicroBatch,
    logits: torch.Tensor,
    target: torch.Tensor,
    losses: torch.Tensor,
    extra: Sequence[str] = (),
    last_input: LastInput | None = None,
    correct_iou: float = CORRECT_IOU,
) -> BatchStats:
    """Return the statistics of a batch; arguments as for ``columns``."""
    return BatchStats(micro_batch, columns(logits, target, losses, extra, last_input, correct_iou))


@torch.no_grad()
def columns(
    logits: torch.Tensor,
    target: torch.Tensor,
    losses: torch.Tensor,
    extra: Sequence[str] = (),
    last_input: LastInput | None = None,
    correct_iou: float = CORRECT_IOU,
) -> dict[str, torch.Tensor]:
    """Return loss, correct, confidence and extra columns of each sample, on the device.

    Correct is bool, loss and confidence are float32. Of masks and sequences, confidence and the extra columns
    are means over a sample's positions, and it is correct by its mean IoU. The softmax over classes is in
    float32. Positions whose target is not a class, such as 255 or -100, are ignored; a sample that has no
    other is wrong, and its confidence is NaN.

    Args:
        logits: (k, C), or (k, C, ...).
        target: classes (k,), or (k, ...), such as masks (k, H, W); int64.
        losses: (k,), before weights.
        extra: names of further columns: probability (of the target), probabilities (k, C), margin, el2n,
            grad_norm, label; of masks, intersection and union, (k, C) each.
        last_input: the observer of the last layer, for grad_norm.
        correct_iou: mean IoU from which a sample with a mask counts as correct.
    """
    probability = F.softmax(logits.float(), dim=1)
    n_classes, has_masks = probability.shape[1], target.dim() > 1
    valid = is_class(target, n_classes)
    label = target.masked_fill(~valid, 0)  # torch.where would wait for a GPU, to send it the 0
    confidence, predicted = probability.max(dim=1)
    known = {
        "loss": losses.detach().float(),
        "correct": predicted == target,
        "confidence": mean_over_valid(confidence, valid),
    }
    if has_masks:
        intersection, union = overlap(predicted, target, n_classes)
        known["correct"] = mean_iou(intersection, union) >= correct_iou
        known |= {
            name: value for name, value in (("intersection", intersection), ("union", union)) if name in extra
        }
    if "probability" in extra:
        known["probability"] = mean_over_valid(probability.gather(1, label[:, None])[:, 0], valid)
    if "probabilities" in extra:
        of_class = mean_over_valid(probability.flatten(0, 1), valid.repeat_interleave(n_classes, dim=0))
        known["probabilities"] = of_class.view(-1, n_classes)
    if "margin" in extra:
        target_p = probability.gather(1, label.unsqueeze(1))
        others = probability.scatter(1, label.unsqueeze(1), -1).amax(dim=1)
        known["margin"] = mean_over_valid(target_p[:, 0] - others, valid)
    if "el2n" in extra or "grad_norm" in extra:
        at = label.unsqueeze(1)
        error = probability.scatter(1, at, probability.gather(1, at) - 1)
        known["el2n"] = mean_over_valid(error.norm(dim=1), valid)
    if "grad_norm" in extra:
        assert last_input is not None
        known["grad_norm"] = known["el2n"] * last_input.norms()
    if "label" in extra:
        # A mask has no single class: all samples are of class 0.
        known["label"] = (torch.zeros_like(losses) if has_masks else target.masked_fill(~valid, -1)).int()
    return known


class SampleStatsBuffer:
    """Collects the statistics of one pass and copies them to the host at once. Fillers are left out.

    extra: dtypes of the further columns, by name; that of a column of width J has the shape (J,).
    """

    def __init__(self, extra: Mapping[str, DTypeLike] = {}):
        self._extra = extra
        self._batches: list[BatchStats] = []
        dtypes: dict[str, DTypeLike] = {"id": np.int64, "position": np.int64}
        dtypes |= {"loss": np.float32, "correct": bool, "confidence": np.float32, **extra}
        self._restored: dict[str, np.ndarray] = {name: np.zeros(0, dtype) for name, dtype in dtypes.items()}

    def add(self, stats: BatchStats) -> None:
        """Keep the statistics of a batch."""
        if stats.micro_batch.counts:
            self._batches.append(stats)

    def stats(self) -> SampleStats:
        """Return all statistics, columns of k rows on the host."""
        columns = dict(self.state_dict())
        return SampleStats(
            **{name: columns.pop(name) for name in columns.keys() - set(self._extra)}, extra=columns
        )

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return all statistics as named columns, (k, ...) each."""
        return {name: np.concatenate([self._restored[name], *self._parts(name)]) for name in self._restored}

    def load_state_dict(self, columns: Mapping[str, np.ndarray]) -> None:
        """Begin with what ``state_dict`` returned before the run was interrupted."""
        self._restored = {name: columns[name] for name in self._restored}

    def _parts(self, name: str) -> list[np.ndarray]:
        """Return one column of all batches; those of the device in one copy."""
        if not self._batches:
            return []
        if name in ("id", "position"):
            return [getattr(batch.micro_batch, name) for batch in self._batches]
        return [torch.cat([batch.columns[name] for batch in self._batches]).cpu().numpy()]
