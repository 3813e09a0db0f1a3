"""Comparison metrics: accuracy, speed-up, cost to an error and Pareto front of several runs.

A contender has one curve a seed; the mean curve is the mean over seeds, epoch by epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

TOLERANCES = (0.0, 0.005, 0.01)
ERROR_FACTORS = (1.1, 1.2, 1.4)
# How many standard errors of 2, 3, ... runs hold 95 %: far more than two where runs are few.
_STUDENT = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
)


@dataclass(frozen=True)
class Curve:
    """One run, an entry per epoch: accuracy, and cumulative steps, forward and backward samples, seconds."""

    accuracy: np.ndarray
    steps: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    seconds: np.ndarray

    def after(self, steps: int, forward: int, backward: int, seconds: float) -> Curve:
        """Return the curve of a run that had this cost before it began: that of its scores."""
        return Curve(
            self.accuracy,
            self.steps + steps,
            self.forward + forward,
            self.backward + backward,
            self.seconds + seconds,
        )


@dataclass(frozen=True)
class Spread:
    """Mean over seeds, 16th and 84th percentile, standard deviation (of a sample; 0 of one)."""

    mean: float
    p16: float
    p84: float
    std: float


def spread(values: Sequence[float]) -> Spread:
    """Return how values, one a seed, are spread."""
    array = np.asarray(values, np.float64)
    p16, p84 = np.percentile(array, [16, 84])
    std = float(array.std(ddof=1)) if len(array) > 1 else 0.0
    return Spread(float(array.mean()), float(p16), float(p84), std)


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Return the mean over seeds; runs of one contender have equally many epochs."""
    return Curve(
        *(
            np.mean([getattr(c, name) for c in curves], axis=0)
            for name in ("accuracy", "steps", "forward", "backward", "seconds")
        )
    )


def final(curves: Sequence[Curve]) -> Spread:
    """Return the accuracy after the last epoch."""
    return spread([c.accuracy[-1] for c in curves])


def best(curves: Sequence[Curve]) -> Spread:
    """Return the accuracy after the epoch at which the mean curve is highest."""
    at = int(np.argmax(mean_curve(curves).accuracy))
    return spread([c.accuracy[at] for c in curves])


def speed_up(method: Curve, baseline: Curve, tolerance: float) -> float | None:
    """Return t_b / t_n of two mean curves; None if the method never gets there.

    t_b: the step of the baseline's best accuracy A_b. t_n: the first step, not after t_b, at which the method
    has A_b - tolerance.
    """
    at = int(np.argmax(baseline.accuracy))
    t_b = baseline.steps[at]
    there = (method.accuracy >= baseline.accuracy[at] - tolerance) & (method.steps <= t_b)
    return float(t_b / method.steps[np.argmax(there)]) if there.any() else None


def cost_to_error(curve: Curve, error: float, cost: str) -> float | None:
    """Return the cost of a mean curve (``steps`` or ``seconds``) to an error; None if it is never reached."""
    there = 1 - curve.accuracy <= error
    return float(getattr(curve, cost)[np.argmax(there)]) if there.any() else None


def accuracy_at(curve: Curve, forward: float) -> float | None:
    """Return the accuracy of the last epoch within so many forward samples; None if there is none."""
    done = int(np.searchsorted(curve.forward, forward, side="right"))
    return float(curve.accuracy[done - 1]) if done else None


def pareto_shares(curves: Mapping[str, Sequence[Curve]]) -> dict[str, float]:
    """Return each contender's share of the front of error against seconds, over every epoch of every run.

    A point is on the front if no other has both less error and less time, or one of them less and the other
    equal.
    """
    points = [
        (seconds, 1 - accuracy, name)
        for name, runs in curves.items()
        for c in runs
        for seconds, accuracy in zip(c.seconds, c.accuracy, strict=True)
    ]
    front, least = [], np.inf
    for _, group in groupby(sorted(points), key=lambda point: point[0]):
        (_, lowest, first), *others = group
        if lowest < least:
            front += [first, *(name for _, error, name in others if error == lowest)]
            least = lowest
    return {name: front.count(name) / len(front) for name in curves}


def differs(curves: Sequence[Curve], baseline: Sequence[Curve]) -> tuple[float, float, bool]:
    """Return the mean difference of final accuracies, its standard error, whether it is significant (95 %).

    Student's t.

    Seeds are paired where both have the same number of them; else the fewer count. Of a single seed the error
    is unknown: NaN, and noise.
    """
    a, b = ([c.accuracy[-1] for c in runs] for runs in (curves, baseline))
    gap, n = float(np.mean(a) - np.mean(b)), min(len(a), len(b))
    if n == 1:
        return gap, np.nan, False
    if len(a) == len(b):
        error = np.std(np.subtract(a, b), ddof=1) / np.sqrt(n)
    else:
        error = np.hypot(*(np.std(x, ddof=1) / np.sqrt(len(x)) for x in (a, b)))
    return gap, float(error), bool(abs(gap) > _STUDENT[min(n, len(_STUDENT) + 1) - 2] * error)
