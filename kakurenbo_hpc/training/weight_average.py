"""Exponential moving average of the weights, which is what is evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ..config.training_options import Training


class WeightAverage:
    """Average of the weights alone: BatchNorm's statistics are the model's own, which ranks average."""

    def __init__(self, model: nn.Module, training: Training, global_batch: int):
        self._training = training
        self._decay = average_decay(training, global_batch)
        self._average = AveragedModel(model)
        self._begins = True

    def update(self, model: nn.Module, epoch: int, step: int) -> None:
        """Take the weights after a step of an epoch into the average, if the job says so of this step."""
        if step % self._training.ema_every:
            return
        self._take_in(model)
        if self._training.ema_style == "torchvision" and epoch < self._training.warmup_epochs:
            self._average.n_averaged.fill_(0)
            self._begins = True

    @torch.no_grad()
    def _take_in(self, model: nn.Module) -> None:
        # AveragedModel.update_parameters would wait for a GPU, to send it the number of updates.
        average, weights = tuple(self._average.module.parameters()), tuple(model.parameters())
        if self._begins:
            torch._foreach_copy_(average, weights)
        else:
            torch._foreach_lerp_(average, weights, 1 - self._decay)
        for buffer, now in zip(self._average.module.buffers(), model.buffers(), strict=True):
            buffer.copy_(now)
        self._average.n_averaged += 1
        self._begins = False

    def network(self, model: nn.Module) -> nn.Module:
        """Return the average, with the model's buffers as they are now."""
        for name, buffer in self._average.module.named_buffers():
            buffer.copy_(model.get_buffer(name))
        return self._average.module

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the number of its updates."""
        return self._average.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._average.load_state_dict(state)
        self._begins = not self._average.n_averaged


def average_decay(training: Training, global_batch: int) -> float:
    """Return the share that the average keeps of itself at an update.

    In torchvision's style 1 - ema is multiplied by global batch x ema_every / epochs, so that ``ema`` need
    not change with them. Source: torchvision's references/classification/train.py.
    """
    if training.ema_style == "plain":
        return training.ema
    return 1 - min(1.0, (1 - training.ema) * global_batch * training.ema_every / training.epochs)
