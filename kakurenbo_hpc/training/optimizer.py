"""timm's optimizers and schedules by name; the learning rate as a function of how far the run is, in epochs."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..config.job import Training
from ..core.torchvision_compat import timm
from ..errors import JobError, nearest


def build_optimizer(training: Training, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Return the job's optimizer over the model's parameters; no weight decay on biases and norms (timm's rule).

    Raises JobError for a name nobody knows, or where momentum means nothing to the optimizer.
    """
    library = timm()
    if training.optimizer not in library.optim.list_optimizers():
        known = library.optim.list_optimizers()
        raise JobError(
            f"training.optimizer is {training.optimizer!r}, which nobody knows; {nearest(training.optimizer, known)}"
        )
    # timm's "sgd" is always Nesterov's; the plain one goes by the name of momentum.
    name = "momentum" if training.optimizer == "sgd" and not training.nesterov else training.optimizer
    return library.optim.create_optimizer_v2(
        model, opt=name, lr=lr, weight_decay=training.weight_decay, momentum=training.momentum
    )


ONECYCLE_RISE = 0.3  # of the run


def onecycle(progress: float) -> float:
    """Return the rate at this share of the run, as a share of the highest: a 25th at first, 1, at last 4e-6.

    Along cosines, with the defaults of torch.optim.lr_scheduler.OneCycleLR; momentum is left alone.
    """
    first, last = 1 / 25, 1 / 25 / 1e4
    if progress < ONECYCLE_RISE:
        start, end, done = first, 1.0, progress / ONECYCLE_RISE
    else:
        start, end, done = 1.0, last, (progress - ONECYCLE_RISE) / (1 - ONECYCLE_RISE)
    return end + (start - end) * (1 + math.cos(math.pi * min(done, 1.0))) / 2


class Schedule:
    """Sets the learning rate from epoch progress, so that an epoch of fewer steps does not stretch it.

    The rate is the schedule's times ``scale`` once warm-up is over (KAKURENBO's rule), and has no state to save. OneCycle's
    rise counts as warm-up, our choice.
    """

    def __init__(self, training: Training, optimizer: torch.optim.Optimizer):
        self._optimizer, self._epochs, self._warmup = optimizer, training.epochs, training.warmup_epochs
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        self._schedule = None
        if training.schedule == "onecycle":
            self._warmup = ONECYCLE_RISE * training.epochs
            return
        constant = training.schedule == "constant"
        self._schedule, _ = timm().scheduler.create_scheduler_v2(
            optimizer,
            sched="step" if constant else training.schedule,
            num_epochs=training.epochs,
            warmup_epochs=training.warmup_epochs,
            warmup_lr=0.0,
            min_lr=training.min_lr,
            decay_epochs=training.decay_epochs or training.epochs,
            decay_milestones=[
                milestone + 1 for milestone in training.milestones
            ],  # timm's falls come an epoch before them
            decay_rate=1.0 if constant else training.decay_rate,
        )

    def set(self, epochs_done: float, scale: float = 1.0) -> float:
        """Set and return the learning rate at this progress of the run; 2.5 is the middle of the third epoch."""
        if self._schedule:
            self._schedule.step(epochs_done)
        else:
            for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
                group["lr"] = peak * onecycle(epochs_done / self._epochs)
        for group in self._optimizer.param_groups:
            group["lr"] *= scale if epochs_done >= self._warmup else 1.0
        return self._optimizer.param_groups[0]["lr"]
