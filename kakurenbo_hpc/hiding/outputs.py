"""Outputs and targets of a training loop: read as logits and classes, or refused in one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import LoopError
from ..training.batch_stats import columns
from ..training.criterion import mean_over_valid
from ..training.segmentation import is_class
from .samplers import Pass

_IGNORED = -100  # a target that is no class
_IGNORED_OF_ONE_LOGIT = (_IGNORED, 255)  # other numbers than 0 to 1 are refused: they may be a regression's
_OTHER_TASK = "for another task give correct= and confidence=, one a sample"


@dataclass(frozen=True)
class ForwardPass:
    """What a loop gives of one forward pass over k samples; see ``Hiding.observe``."""

    losses: torch.Tensor
    output: Any
    target: Any
    correct: torch.Tensor | np.ndarray | Sequence | None
    confidence: torch.Tensor | np.ndarray | Sequence | None
    ignore_index: int | None

    @property
    def is_judged(self) -> bool:
        """Whether the loop itself says what is correct, and with what confidence."""
        return self.correct is not None and self.confidence is not None


@dataclass(frozen=True)
class Classes:
    """Logits and targets in one form.

    Attributes:
        logits: (k, C, ...), C at least 2.
        target: (k, ...) int64; what is not 0 to C - 1 is ignored.
        is_odd: () bool, whether soft targets were no distribution over classes, or mixed; None for hard ones.
    """

    logits: torch.Tensor
    target: torch.Tensor
    is_odd: torch.Tensor | None = None

    @property
    def valid(self) -> torch.Tensor:
        """(k, ...) bool, where the target is a class."""
        return is_class(self.target, self.logits.shape[1])


class OutputReader:
    """Computes per-sample statistics from what a loop observes.

    Our choices among several: one logit is read as two classes, the second one beyond 0; soft targets that
    were smoothed or distilled count as their largest class; mixed ones (mixup, cutmix) and those of several
    labels are refused, since no class is right or wrong there; sequences count like masks, by mean IoU; of
    logits (k, T, C) the side that is not T holds the classes, and where both are T, the side that held them
    before.

    Soft targets are looked at when a pass begins, for all batches since the last look, so as not to wait for
    the device; on the CPU in each batch.

    Args:
        extra: names of the columns that the method needs besides loss, correct and confidence.
    """

    def __init__(self, extra: Iterable[str]):
        self._extra = tuple(extra)
        self._class_dim: int | None = None
        self._is_odd: torch.Tensor | None = None

    def read(self, given: ForwardPass, current: Pass) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the losses (k,) with their graph, and the statistics of the pass's next batch.

        k is without padding, which comes last.

        Raises:
            LoopError: they cannot be understood.
        """
        k = len(current.micro_batch.id)
        classes = self._classes(given, current, k)
        losses = _average(given.losses[:k], classes, current)
        if classes is None:
            stats = {"loss": losses.detach().float()}
        else:
            stats = columns(classes.logits, classes.target, losses, self._extra)
        for name, value, dtype in (
            ("correct", given.correct, torch.bool),
            ("confidence", given.confidence, torch.float32),
        ):
            if value is not None:
                stats[name] = _one_a_sample(name, value, losses, current)[:k].to(dtype)
        return losses, stats

    def _classes(self, given: ForwardPass, current: Pass, k: int) -> Classes | None:
        """Return logits and targets of the first k; None where the loop says all that they are needed for."""
        if given.is_judged and not self._extra:
            return None
        if given.output is None or given.target is None:
            wanted = f"; the method computes {', '.join(self._extra)} from them" if given.is_judged else ""
            raise LoopError(
                f"hiding: observe got no logits or no target for {current}{wanted}; give both, or "
                "correct= and confidence= with a method that needs no more"
            )
        logits, target = find_logits(given.output, current), given.target
        if not isinstance(target, torch.Tensor) or not target.dim():
            raise LoopError(
                f"hiding: observe got a target of type {type(target).__name__} for {current}; give a tensor "
                f"with one row a sample; {_OTHER_TASK}"
            )
        if not len(logits) == len(target) == len(current.ids):
            raise LoopError(
                f"hiding: observe got {len(logits)} logits and {len(target)} targets for {current}, which "
                f"has {len(current.ids)} samples; give one row a sample: (k, C, T) and (k, T), not (k T, C)"
            )
        classes = self._as_classes(logits[:k].detach(), target[:k].detach(), given.ignore_index, current)
        if not given.is_judged:
            self._check_soft_targets(classes, current)
        return classes

    def _as_classes(
        self, logits: torch.Tensor, target: torch.Tensor, ignore_index: int | None, current: Pass
    ) -> Classes:
        if _is_one_logit(logits, target):
            return _two_classes(logits, target, ignore_index)
        if logits.shape == target.shape and logits.dim() > 1:
            valid = torch.ones_like(target[:, 0], dtype=torch.bool)
            return Classes(logits, target.float().argmax(1), _is_odd(target, valid))
        if target.dim() == logits.dim() and target.shape[1] == 1:
            target = target.squeeze(1)
        dims = [dim for dim in {1, logits.dim() - 1} if _without(logits.shape, dim) == target.shape]
        if target.is_floating_point() or target.dtype == torch.bool or not dims:
            raise LoopError(
                f"hiding: observe got logits {tuple(logits.shape)} and targets {tuple(target.shape)} of type "
                f"{str(target.dtype).removeprefix('torch.')} for {current}; give integer classes (k,) or "
                f"(k, ...) for logits (k, C) or (k, C, ...); {_OTHER_TASK}"
            )
        logits, target = logits.movedim(self._find_class_dim(dims, logits, current), 1), target.long()
        if ignore_index is not None:
            target = target.masked_fill(target == ignore_index, _IGNORED)
        return Classes(logits, target)

    def _find_class_dim(self, dims: list[int], logits: torch.Tensor, current: Pass) -> int:
        """Return the dimension of the classes, among those that the targets leave."""
        if len(dims) == 1:
            self._class_dim = dims[0]
        elif logits.dim() > 3:
            return 1  # images of C x C pixels: as PyTorch's criteria read them
        elif self._class_dim is None:
            raise LoopError(
                f"hiding: observe got logits {tuple(logits.shape)} for {current}, which may be (k, C, T) or "
                f"(k, T, C); pad the sequences to another length, or {_OTHER_TASK}"
            )
        assert self._class_dim is not None
        return self._class_dim

    def _check_soft_targets(self, classes: Classes, current: Pass) -> None:
        if classes.is_odd is None:
            return
        self._is_odd = classes.is_odd if self._is_odd is None else self._is_odd | classes.is_odd
        if (classes.is_odd.device.type == "cpu" or current.n_observed == 0) and bool(self._is_odd):
            raise LoopError(
                f"hiding: the targets up to {current} are mixed (mixup, cutmix), of several labels, or no "
                "classes (ignore_index= names one to ignore), so that none is right or wrong; give observe "
                "correct= and confidence=, one a sample"
            )


def find_logits(output: Any, current: Pass) -> torch.Tensor:
    """Return the logits of a network's output: a tensor, or what Hugging Face and torchvision return.

    Raises:
        LoopError: there are none, or it is not said which they are.
    """
    if isinstance(output, Mapping) and not hasattr(output, "logits"):
        logits = output.get("logits", output.get("out"))
    else:
        logits = getattr(output, "logits", output)
    if not isinstance(logits, torch.Tensor) or not logits.is_floating_point() or not logits.dim():
        raise LoopError(
            f"hiding: observe got an output of type {type(output).__name__} for {current}, whose logits are "
            f"not known; give the tensor of logits, such as output[0]; {_OTHER_TASK}"
        )
    return logits


def _is_one_logit(logits: torch.Tensor, target: torch.Tensor) -> bool:
    """Return whether there is one logit a target, as for BCEWithLogitsLoss."""
    return (logits.dim() == 1 or 1 in (logits.shape[1], logits.shape[-1])) and (
        _without_ones(logits.shape) == _without_ones(target.shape)
    )


def _two_classes(logits: torch.Tensor, target: torch.Tensor, ignore_index: int | None) -> Classes:
    """Return one logit x as the logits (0, x) of two classes: softmax gives the sigmoid of x."""
    shape = _without_ones(logits.shape)
    logits, target = logits.reshape(shape), target.reshape(shape)
    target = target if target.is_floating_point() else target.float()
    valid = target != (_IGNORED if ignore_index is None else ignore_index)
    for value in _IGNORED_OF_ONE_LOGIT:
        valid &= target != value
    is_odd = _is_odd(torch.stack([1 - target, target], 1), valid)
    return Classes(
        torch.stack([torch.zeros_like(logits), logits], 1),
        (target > 0.5).long().masked_fill(~valid, _IGNORED),
        is_odd,
    )


def _is_odd(target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Return () bool: whether soft targets (k, C, ...) are no distributions over classes, or mixed.

    In a smoothed batch all classes but one have the same least value in every target, and in a mixed one all
    but two; the least values of distilled targets differ. Two classes are mixed where least values are
    neither all alike, nor nearly all different. valid: (k, ...) bool.
    """
    eps = 4 * torch.finfo(target.dtype).eps if target.is_floating_point() else 0.0
    target = target.float()
    least = target.amin(1)
    is_distribution = (least >= 0) & ((target.sum(1) - 1).abs() <= 0.05)
    ordered = torch.where(valid, least, torch.inf).flatten().sort().values
    n_alike = (ordered.diff() <= eps * ordered[:-1]).sum()  # of infinite ones the difference is NaN
    n_others = (target > ordered[0] * (1 + eps)).sum(1)
    is_mixed = (
        ((n_others <= 2) | ~valid).all() & ((n_others == 2) & valid).any() & (4 * n_alike > valid.sum())
    )
    return (~is_distribution & valid).any() | is_mixed


def _average(losses: torch.Tensor, classes: Classes | None, current: Pass) -> torch.Tensor:
    """Return losses (k,): of (k, ...), the mean over valid positions; NaN for a sample without one."""
    if classes is None:
        return losses if losses.dim() == 1 else losses.flatten(1).mean(1)
    valid = classes.valid
    if losses.dim() == 1:
        return losses.masked_fill(~valid[:, None].flatten(1).any(1), torch.nan)
    if losses.shape == classes.logits.shape and losses.dim() > valid.dim():
        losses = losses.mean(1)  # of the classes, each of which had a loss
    if _without_ones(losses.shape) != _without_ones(valid.shape):
        raise LoopError(
            f"hiding: observe got losses {tuple(losses.shape)}, but targets {tuple(valid.shape)} for "
            f"{current}; give the logits and targets that the losses are of (of a language model, shifted), "
            "or one loss a sample"
        )
    return mean_over_valid(losses.reshape(valid.shape), valid)


def _one_a_sample(name: str, value: Any, losses: torch.Tensor, current: Pass) -> torch.Tensor:
    given = torch.as_tensor(value, device=losses.device).detach()
    if given.shape != (len(current.ids),):
        raise LoopError(
            f"hiding: observe got {name} of shape {tuple(given.shape)} for {current}, which has "
            f"{len(current.ids)} samples; give one value a sample"
        )
    return given


def _without(shape: torch.Size, dim: int) -> torch.Size:
    return shape[:dim] + shape[dim + 1 :]


def _without_ones(shape: torch.Size) -> torch.Size:
    """Return the shape without dimensions of size 1 after the first."""
    return shape[:1] + torch.Size(size for size in shape[1:] if size != 1)
