"""What a forward pass says of each sample, kept on the device until the pass over all of them is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..core.batch import MicroBatch
from ..core.sample_stats import SampleStats
from .criterion import by_sample
from .gradient_norm import LastInput
from .segmentation import CORRECT_IOU, mean_iou, overlap


@dataclass(frozen=True)
class BatchStats:
    """One batch's results on its device, nothing waited for. Columns are (k, ...): loss float32, correct bool, and so on."""

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
    """Return what a batch's forward pass says of each sample; arguments as for ``columns``."""
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
    """Return loss, correctness, confidence and the asked-for extras of each sample, (k,) on the device.

    logits: (k, C) and target: (k,); or (k, C, H, W) and masks (k, H, W), where a sample is its pixels' mean, and correct
    if its mean IoU reaches correct_iou. losses: (k,), before weights. Softmax is over classes, in float32.
    extra: also, of masks alone, intersection and union (k, C). last_input: for grad_norm, what went into the last layer.
    """
    probability = F.softmax(logits.float(), dim=1)
    n_classes, of_masks = probability.shape[1], target.dim() > 1
    confidence, predicted = probability.max(dim=1)
    known = {
        "loss": losses.detach().float(),
        "correct": predicted == target,
        "confidence": by_sample(confidence),
    }
    if of_masks:
        intersection, union = overlap(predicted, target, n_classes)
        known["correct"] = mean_iou(intersection, union) >= correct_iou
        known |= {
            name: value for name, value in (("intersection", intersection), ("union", union)) if name in extra
        }
    if "probability" in extra:
        known["probability"] = by_sample(probability.gather(1, target[:, None])[:, 0])
    if "el2n" in extra or "grad_norm" in extra:
        known["el2n"] = by_sample((probability - F.one_hot(target, n_classes).movedim(-1, 1)).norm(dim=1))
    if "grad_norm" in extra:
        known["grad_norm"] = known["el2n"] * last_input.norms()
    if "label" in extra:  # a mask belongs to no class: all are of class 0
        known["label"] = torch.zeros_like(losses, dtype=torch.int32) if of_masks else target.int()
    return known


class SampleStatsBuffer:
    """Collects what is seen in one pass, and brings it to the host in one go. Fillers are not noted."""

    def __init__(self, extra: Sequence[str] = ()):
        self._extra = extra
        self._seen: list[BatchStats] = []
        columns = {"loss": np.float32, "correct": bool, "confidence": np.float32}
        columns |= {name: np.int32 if name == "label" else np.float32 for name in extra}
        self._before = {
            name: np.zeros(0, dtype)
            for name, dtype in {"id": np.int64, "position": np.int64, **columns}.items()
        }

    def add(self, seen: BatchStats) -> None:
        if seen.micro_batch.counts:
            self._seen.append(seen)

    def stats(self) -> SampleStats:
        """Return everything noted, (k,) columns on the host."""
        columns = dict(self.state_dict())
        return SampleStats(
            **{name: columns.pop(name) for name in columns.keys() - set(self._extra)}, extra=columns
        )

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return everything noted as named columns, (k, ...) each."""
        columns = {
            "id": [seen.micro_batch.id for seen in self._seen],
            "position": [seen.micro_batch.position for seen in self._seen],
        }
        for name in self._before.keys() - columns.keys():
            columns[name] = (
                [torch.cat([seen.columns[name] for seen in self._seen]).cpu().numpy()] if self._seen else []
            )
        parts = {
            name: [part for part in (before, *columns[name]) if len(part)]
            for name, before in self._before.items()
        }
        return {name: np.concatenate(some) if some else self._before[name] for name, some in parts.items()}

    def load_state_dict(self, found: Mapping[str, np.ndarray]) -> None:
        """Begin with what an earlier book had found."""
        self._before = {name: found[name] for name in self._before}
