"""Optimizer steps, but those whose gradient is not finite, which are counted."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import torch
from torch import nn

from ..errors import TrainingError

_LAG = 8  # steps until the host reads what the device decided: long done, so that reading seldom waits


class _Decision(NamedTuple):
    """What the device decided about a step: 1 if it was skipped, and the loss scale, (2,) on its way home."""

    values: torch.Tensor
    arrived: torch.cuda.Event | None

    def read(self) -> list[float]:
        """Return both. Waits for their arrival."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.values.tolist()


class FiniteSteps:
    """Takes an optimizer's steps, the same on all ranks, but skips those whose gradient is not finite.

    A fused optimizer takes the decision from the device, so that the host waits for nothing, and learns of a
    skipped step some steps later. Others wait for the device in every step, since a step cannot be undone.

    Attributes:
        epoch: the current one.
        waits: whether the host waits in every step.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, limit: int, device: torch.device
    ):
        """Begin before any step.

        Args:
            optimizer: takes the steps.
            scaler: of the loss; perhaps not enabled.
            limit: skipped steps in a row that end the run.
            device: of the gradients.
        """
        self._optimizer, self._scaler, self._limit, self._device = optimizer, scaler, limit, device
        self._one = torch.ones((), device=device)
        self._pending: deque[_Decision] = deque()
        self.epoch, self._n_skipped, self._in_a_row = -1, 0, 0
        self.waits = not _decides_on_device(optimizer)

    def begin_epoch(self, number: int) -> None:
        """Count anew, but in an epoch that is resumed."""
        self.finish()
        if number != self.epoch:
            self.epoch, self._n_skipped = number, 0

    def step(self, model: nn.Module, clip_norm: float | None) -> None:
        """Step by the model's gradients, scaled and perhaps to be clipped, if all of them are finite.

        Raises:
            TrainingError: on all ranks alike, after too many skipped steps in a row.
        """
        self._scaler.unscale_(self._optimizer)
        is_skipped = _not_finite(model)
        decision = torch.stack([is_skipped, self._scaler.scale(self._one)])
        if self.waits:
            if not self._count(*decision.tolist()):
                _clip(model, clip_norm)
                self._scaler.step(self._optimizer)
        else:
            _clip(model, clip_norm)
            _step_unless(is_skipped, self._optimizer)
            self._pending.append(_send_home(decision))
            self._count_until(_LAG)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)

    def finish(self) -> None:
        """Wait until all steps are counted.

        Raises:
            TrainingError: on all ranks alike, too many in a row were skipped.
        """
        self._count_until(0)

    def state(self) -> tuple[int, int]:
        """Return the numbers of steps skipped in this epoch, and in a row. Waits for the device.

        Decisions stay pending, since ranks call this at different times, and all are to raise at one step.
        """
        counts = self._n_skipped, self._in_a_row
        for decision in self._pending:
            counts = self._counted(counts, *decision.read())
        return counts

    def load_state(self, state: tuple[int, int], epoch: int) -> None:
        """Restore what ``state`` returned in this epoch."""
        (self._n_skipped, self._in_a_row), self.epoch = state, epoch
        self._pending.clear()

    def _count_until(self, n_left: int) -> None:
        while len(self._pending) > n_left:
            self._count(*self._pending.popleft().read())

    def _count(self, is_skipped: float, scale: float) -> float:
        counts = self._n_skipped, self._in_a_row
        self._n_skipped, self._in_a_row = self._counted(counts, is_skipped, scale)
        if self._in_a_row >= self._limit:
            raise TrainingError(
                f"the gradient was not finite in {self._in_a_row} steps in a row, the last of them in epoch "
                f"{self.epoch + 1}; checkpoints, if there are any, are from before: lower training.lr, or "
                "choose another precision"
            )
        return is_skipped

    def _counted(self, counts: tuple[int, int], is_skipped: float, scale: float) -> tuple[int, int]:
        n_skipped, in_a_row = counts
        if not is_skipped:
            return n_skipped, 0
        # With a scale of 1 or more, an overflow may come from the scale alone, which is about to be halved.
        return n_skipped + 1, in_a_row + (scale < 1 or not self._scaler.is_enabled())


def _decides_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer skips a step by itself where ``found_inf`` is 1.

    SGD's fused step does not skip its first one whole: it leaves the momentum of a parameter as it happens to
    be in memory. ``_step_unless`` begins with zeros instead, which dampening would tell from no momentum.
    """
    return all(
        group.get("fused") and not group.get("dampening") for group in optimizer.param_groups
    ) and getattr(optimizer, "_step_supports_amp_scaling", False)


def _step_unless(is_skipped: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Step unless the tensor is 1. Source: torch.amp.GradScaler.step."""
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            for p in group["params"] if group["momentum"] else ():
                if optimizer.state[p].get("momentum_buffer") is None:
                    optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    optimizer.grad_scale, optimizer.found_inf = None, is_skipped  # type: ignore[attr-defined]
    optimizer.step()
    del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]


def _not_finite(model: nn.Module) -> torch.Tensor:
    """Return 1 if any gradient is not finite, () float32 on the device."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    largest = torch.stack(torch._foreach_norm(gradients, math.inf))
    return (~torch.isfinite(largest)).any().float()


def _clip(model: nn.Module, norm: float | None) -> None:
    if norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), norm)


def _send_home(values: torch.Tensor) -> _Decision:
    """Begin to copy values to the host."""
    if values.device.type != "cuda":
        return _Decision(values, None)
    at_home = values.to("cpu", non_blocking=True)  # into pinned memory
    arrived = torch.cuda.Event()
    arrived.record()
    return _Decision(at_home, arrived)
