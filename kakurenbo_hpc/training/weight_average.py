"""Exponential moving average of the weights, which is what is evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..config.training_options import Training


class WeightAverage:
    """Average of the weights alone: BatchNorm's statistics are the model's own, which ranks average."""

    def __init__(self, model: nn.Module, training: Training, global_batch: int):
        self._training = training
        decay = average_decay(training, global_batch)
        self._average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def update(self, model: nn.Module, epoch: int, step: int) -> None:
        """Take the weights after a step of an epoch into the average, if the job says so of this step."""
        if step % self._training.ema_every:
            return
        self._average.update_parameters(model)
        if self._training.ema_style == "torchvision" and epoch < self._training.warmup_epochs:
            self._average.n_averaged.fill_(0)  # the next update copies

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


def average_decay(training: Training, global_batch: int) -> float:
    """Return the share that the average keeps of itself at an update.

    In torchvision's style 1 - ema is multiplied by global batch x ema_every / epochs, so that ``ema`` need
    not change with them. Source: torchvision's references/classification/train.py.
    """
    if training.ema_style == "plain":
        return training.ema
    return 1 - min(1.0, (1 - training.ema) * global_batch * training.ema_every / training.epochs)
