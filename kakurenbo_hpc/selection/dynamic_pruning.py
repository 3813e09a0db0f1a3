"""Accelerating Deep Learning with Dynamic Data Pruning (Raju, Daruwalla, Lipasti 2021): common base."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ..config.options import Count, Fraction, option
from ..core.ledger import Ledger
from ..core.plan import Epoch, Plan
from ..core.rng import Stream
from .global_stats import GlobalStats
from .method import Method

_LARGEST = float(np.finfo(np.float32).max)


class DynamicPruning(Method):
    """Scores the samples every few epochs, and hides the same floor(F N) until it scores them again.

    F: ``fraction``. m: ``momentum`` of the moving averages, mean <- m mean + (1 - m) loss and likewise the
    variance, of the loss's squared distance from the mean before it; the first loss begins them, with
    variance 0.

    Our choices where the paper is silent: epoch 0 trains everything, and the scores hold from the epochs 1,
    1 + every, ... on; a loss that is not finite leaves the averages as they are, and such a sample is not
    hidden; of equal scores the smaller id is hidden. (InfoBatch's code for UCB weighs the new loss by .8:
    momentum 0.2 here.)
    """

    needs_losses = True

    fraction: Fraction = option(0.3, "Fraction F of the samples that is hidden.", "fraction")
    momentum: Annotated[float, Field(ge=0, lt=1)] = option(
        0.8, "Momentum of the moving averages of losses: the weight of the old average."
    )
    every: Count = option(10, "Epochs for which a choice holds until samples are scored again.", "epochs")

    @property
    def columns(self) -> dict[str, tuple]:
        """Moving averages, and score, by which the choice in force was made."""
        return {name: (np.float32, np.nan) for name in ("mean", "variance", "score")}

    @property
    def max_hidden_fraction(self) -> float:
        """Always this fraction."""
        return self.fraction

    @abstractmethod
    def score(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """Return (S,) float64 scores from the moving averages, (S,) float64; the lowest are hidden."""

    @abstractmethod
    def choose_hidden(self, rng: Stream, ledger: Ledger, everyone: GlobalStats) -> np.ndarray:
        """Return (S,) bool, the samples that the scores in force hide; only ones with a finite loss.

        rng: of the epoch since which the scores hold, so that the choice stays the same as long as they do.
        """

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Hide what the scores in force say."""
        since = epoch.number - (epoch.number - 1) % self.every
        hidden = self.choose_hidden(epoch.rng.of_epoch(since), ledger, everyone)
        return Plan(train=~hidden, max_fraction=self.fraction)

    def update(
        self, epoch: Epoch, ledger: Ledger, after: Literal["scoring", "epoch"]
    ) -> Mapping[str, np.ndarray]:
        """Update the moving averages, and the score every few epochs."""
        mean, variance = self._update_averages(epoch, ledger)
        if epoch.number % self.every != 0:
            return {"mean": mean, "variance": variance}
        score = self.score(mean.astype(np.float64), variance.astype(np.float64))
        score = np.where(np.isfinite(ledger.loss), np.minimum(score, _LARGEST), np.inf)
        return {"mean": mean, "variance": variance, "score": score.astype(np.float32)}

    def _update_averages(self, epoch: Epoch, ledger: Ledger) -> tuple[np.ndarray, np.ndarray]:
        """Return the moving averages, (S,) float32, with this epoch's losses in them."""
        m, loss = self.momentum, ledger.loss.astype(np.float64)
        mean, variance = (ledger.extra[name].astype(np.float64) for name in ("mean", "variance"))
        new = (ledger.seen_epoch == epoch.number) & np.isfinite(loss)
        first = np.isnan(mean)
        distance = np.where(new & ~first, loss - mean, 0)
        variance = np.where(new, np.where(first, 0, m * variance + (1 - m) * distance**2), variance)
        mean = np.where(new, np.where(first, loss, m * mean + (1 - m) * loss), mean)
        return mean.astype(np.float32), np.minimum(variance, _LARGEST).astype(np.float32)
