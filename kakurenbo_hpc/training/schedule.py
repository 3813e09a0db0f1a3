"""Learning-rate schedules: the rate as a function of how far the run is, in epochs."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import torch

from ..config.training_options import OneCycle, Training
from ..errors import JobError

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
        self._cycle = training.onecycle if training.schedule == "onecycle" else OneCycle()
        self._epochs = training.epochs
        if training.schedule == "onecycle":
            self._warmup_epochs = self._cycle.pct_start * training.epochs
            _check_momentum(optimizer, training)
        else:
            self._warmup_epochs = training.warmup_epochs
            rate = _by_epoch(self._rate) if training.schedule_by == "epoch" else self._rate
            self._rate = _warmed_up(rate, training)

    def set(self, epochs_done: float, scale: float = 1.0) -> float:
        """Set and return the learning rate at this progress; 2.5 is the middle of the third epoch."""
        factor = scale if epochs_done >= self._warmup_epochs else 1.0
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = self._rate(peak, epochs_done) * factor
            if self._cycle.cycle_momentum:
                _set_momentum(group, onecycle_momentum(epochs_done / self._epochs, self._cycle))
        return self._optimizer.param_groups[0]["lr"]


def onecycle(progress: float, cycle: OneCycle) -> float:
    """Return the OneCycle rate as a fraction of the highest: low at first, then 1, almost 0 at the end.

    Args:
        progress: of the run, 0 to 1.
        cycle: its parameters, those of torch.optim.lr_scheduler.OneCycleLR.
    """
    first = 1 / cycle.div_factor
    return _there_and_back(progress, cycle.pct_start, first, 1.0, first / cycle.final_div_factor)


def onecycle_momentum(progress: float, cycle: OneCycle) -> float:
    """Return the momentum, which is lowest where the rate is highest. Arguments as for ``onecycle``."""
    high, low = cycle.max_momentum, cycle.base_momentum
    return _there_and_back(progress, cycle.pct_start, high, low, high)


def _there_and_back(progress: float, turn: float, first: float, middle: float, last: float) -> float:
    """Return a value that goes from first to middle until the turn, then to last, each along a cosine."""
    if progress < turn:
        start, end, done = first, middle, progress / turn
    else:
        start, end, done = middle, last, (progress - turn) / (1 - turn)
    return end + (start - end) * (1 + math.cos(math.pi * min(done, 1.0))) / 2


def _set_momentum(group: dict[str, Any], momentum: float) -> None:
    if "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])
    else:
        group["momentum"] = momentum


def _check_momentum(optimizer: torch.optim.Optimizer, training: Training) -> None:
    if training.onecycle.cycle_momentum and not {"betas", "momentum"} & optimizer.defaults.keys():
        raise JobError(
            f"training.onecycle.cycle_momentum is true, but optimizer {training.optimizer} has no momentum; "
            "set it to false"
        )


def _by_epoch(rate: Rate) -> Rate:
    """Return the schedule with the rate that it has at the start of each epoch."""
    return lambda peak, epochs_done: rate(peak, math.floor(epochs_done))


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
    return lambda peak, epochs_done: peak * onecycle(epochs_done / training.epochs, training.onecycle)


_RATES: dict[str, Callable[[Training], Rate]] = {
    "constant": _constant,
    "cosine": _cosine,
    "multistep": _multistep,
    "onecycle": _onecycle,
    "poly": _poly,
    "step": _step,
    "tanh": _tanh,
}
