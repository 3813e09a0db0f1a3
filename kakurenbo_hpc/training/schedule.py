"""Learning-rate schedules: the rate as a function of how far the run is, in epochs."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable

import torch

from ..config.job import Training

ONECYCLE_RISE = 0.3  # of the run
_TANH = (-7.0, 3.0)  # where the hyperbolic tangent begins and ends, timm's defaults

Rate = Callable[[float, float], float]  # the peak rate and the progress in epochs -> the rate


class Schedule:
    """Sets the learning rate from epoch progress, so that an epoch of fewer steps does not stretch it.

    It rises linearly from 0 during warm-up, then follows the job's schedule. The rate is multiplied by
    ``scale`` once warm-up is over (KAKURENBO's rule). There is no state to save. OneCycle's rise counts as
    warm-up, which is our choice.
    """

    def __init__(self, training: Training, optimizer: torch.optim.Optimizer):
        self._optimizer = optimizer
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        self._rate = _RATES[training.schedule](training)
        if training.schedule == "onecycle":
            self._warmup_epochs = ONECYCLE_RISE * training.epochs
        else:
            self._warmup_epochs = training.warmup_epochs
            self._rate = _warmed_up(self._rate, training)

    def set(self, epochs_done: float, scale: float = 1.0) -> float:
        """Set and return the learning rate at this progress; 2.5 is the middle of the third epoch."""
        factor = scale if epochs_done >= self._warmup_epochs else 1.0
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = self._rate(peak, epochs_done) * factor
        return self._optimizer.param_groups[0]["lr"]


def onecycle(progress: float) -> float:
    """Return the OneCycle rate as a fraction of the highest: 1/25 at first, then 1, 4e-6 at the end.

    Both parts follow a cosine, with the defaults of torch.optim.lr_scheduler.OneCycleLR; momentum does not
    change.

    Args:
        progress: of the run, 0 to 1.
    """
    first, last = 1 / 25, 1 / 25 / 1e4
    if progress < ONECYCLE_RISE:
        start, end, done = first, 1.0, progress / ONECYCLE_RISE
    else:
        start, end, done = 1.0, last, (progress - ONECYCLE_RISE) / (1 - ONECYCLE_RISE)
    return end + (start - end) * (1 + math.cos(math.pi * min(done, 1.0))) / 2


def _warmed_up(rate: Rate, training: Training) -> Rate:
    """Return the schedule with a linear warm-up before it."""
    warmup = training.warmup_epochs

    def warmed_up(peak: float, epochs_done: float) -> float:
        if epochs_done >= warmup:
            return rate(peak, epochs_done)
        # tanh is the one schedule that has fallen by the end of warm-up, and timm rises to where it is then.
        top = rate(peak, warmup) if training.schedule == "tanh" else peak
        return epochs_done * (top / warmup)

    return warmed_up


# The formulas are timm's to the bit: runs keep the rates that they had when timm's schedulers computed them.


def _constant(training: Training) -> Rate:
    return lambda peak, epochs_done: peak


def _cosine(training: Training) -> Rate:
    # Source: Loshchilov and Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts"; no restarts.

    def fall(progress: float) -> float:
        return 1 + math.cos(math.pi * progress / training.epochs)

    return _falling(training, lambda span, progress: 0.5 * span * fall(progress))


def _poly(training: Training) -> Rate:
    power = training.decay_rate
    return _falling(training, lambda span, progress: span * (1 - progress / training.epochs) ** power)


def _tanh(training: Training) -> Rate:
    begin, end = _TANH

    def fall(progress: float) -> float:
        done = progress / training.epochs
        return 1 - math.tanh(begin * (1.0 - done) + end * done)

    return _falling(training, lambda span, progress: 0.5 * span * fall(progress))


def _falling(training: Training, above_min: Rate) -> Rate:
    """Return a schedule from the peak to ``min_lr``; ``above_min`` takes their difference as its peak."""

    def rate(peak: float, epochs_done: float) -> float:
        if epochs_done >= training.epochs:
            return training.min_lr
        return training.min_lr + above_min(peak - training.min_lr, epochs_done)

    return rate


def _step(training: Training) -> Rate:
    period = training.decay_epochs or training.epochs
    return lambda peak, epochs_done: peak * training.decay_rate ** (epochs_done // period)


def _multistep(training: Training) -> Rate:
    milestones = training.milestones
    return lambda peak, epochs_done: peak * training.decay_rate ** bisect_right(milestones, epochs_done)


def _onecycle(training: Training) -> Rate:
    return lambda peak, epochs_done: peak * onecycle(epochs_done / training.epochs)


_RATES: dict[str, Callable[[Training], Rate]] = {
    "constant": _constant,
    "cosine": _cosine,
    "multistep": _multistep,
    "onecycle": _onecycle,
    "poly": _poly,
    "step": _step,
    "tanh": _tanh,
}
