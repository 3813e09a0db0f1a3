"""Dynamic data pruning by a moving average of the losses, renewed every so many epochs (Raju et al. 2021)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import Field

from ..config.options import Count, Fraction
from ..core.ledger import Ledger
from ..core.plan import Epoch, Plan
from .global_stats import GlobalStats
from .method import Method

_LARGEST = float(np.finfo(np.float32).max)


class Periodic(Method):
    """Scores the samples every so many epochs, and hides the same ones until it does so again; a leaf says how.

    fraction: F, the share hidden. every: epochs between scores.
    momentum: m of the moving averages, mean <- m mean + (1 - m) loss, and in the same way the variance, of the loss's
    distance from the mean before it; the first loss begins them, with variance 0.

    Our choices where the paper is silent: epoch 0 trains everything, and the scores hold from the epochs 1, 1 + every,
    ... on; a loss that is not finite leaves the averages as they are, and such a sample is not hidden; of equal scores
    the smaller id is hidden. (InfoBatch's code for UCB weighs the new loss by .8: momentum 0.2 here.)
    """

    needs_losses = True

    fraction: Fraction = 0.3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.8
    every: Count = 10

    @property
    def columns(self) -> dict[str, tuple]:
        """score: what the choice in force was made by."""
        return {name: (np.float32, np.nan) for name in ("mean", "variance", "score")}

    @property
    def max_hidden_fraction(self) -> float:
        return self.fraction

    @abstractmethod
    def score(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """Return (S,) float64 from the moving averages, (S,) float64; the low ones are to be hidden."""

    @abstractmethod
    def hidden(self, since: Epoch, ledger: Ledger, everyone: GlobalStats) -> np.ndarray:
        """Return (S,) bool, whom the scores in force since that epoch hide; nobody who was not seen or has no finite loss."""

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        since = Epoch(epoch.number - (epoch.number - 1) % self.every, epoch.total, epoch.seed)
        return Plan(train=~self.hidden(since, ledger, everyone), max_fraction=self.fraction)

    def on_epoch_end(self, epoch: Epoch, ledger: Ledger) -> Mapping[str, np.ndarray]:
        mean, variance = self.averages(epoch, ledger)
        if epoch.number % self.every != 0:
            return {"mean": mean, "variance": variance}
        score = self.score(mean.astype(np.float64), variance.astype(np.float64))
        score = np.where(np.isfinite(ledger.loss), np.minimum(score, _LARGEST), np.inf)
        return {"mean": mean, "variance": variance, "score": score.astype(np.float32)}

    def averages(self, epoch: Epoch, ledger: Ledger) -> tuple[np.ndarray, np.ndarray]:
        """Return the moving averages, (S,) float32, with this epoch's losses in them."""
        m, loss = self.momentum, ledger.loss.astype(np.float64)
        mean, variance = (ledger.extra[name].astype(np.float64) for name in ("mean", "variance"))
        new = (ledger.seen_epoch == epoch.number) & np.isfinite(loss)
        first = np.isnan(mean)
        distance = np.where(new & ~first, loss - mean, 0)
        variance = np.where(new, np.where(first, 0, m * variance + (1 - m) * distance**2), variance)
        mean = np.where(new, np.where(first, loss, m * mean + (1 - m) * loss), mean)
        return mean.astype(np.float32), np.minimum(variance, _LARGEST).astype(np.float32)
