"""Accelerating Deep Learning with Dynamic Data Pruning (Raju, Daruwalla, Lipasti 2021): UCB."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ...config.options import option
from ...core.ledger import Ledger
from ...core.rng import Stream
from ..dynamic_pruning import DynamicPruning
from ..global_stats import GlobalStats
from ..sampling import has_loss


class Ucb(DynamicPruning):
    """Keeps the samples of largest mean + c x spread of their losses, and hides the other floor(F N)."""

    c: Annotated[float, Field(ge=0)] = option(1.0, "Weight c of the spread of the losses in the score.")
    spread: Literal["var", "std"] = option("var", "Measure of spread: moving variance, or its square root.")

    def score(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """Return mean + c x spread."""
        return mean + self.c * (variance if self.spread == "var" else np.sqrt(variance))

    def choose_hidden(self, rng: Stream, ledger: Ledger, everyone: GlobalStats) -> np.ndarray:
        """Mark the floor(F N) samples of lowest score."""
        return everyone.smallest(ledger.extra["score"], self.fraction, ledger.id, among=has_loss(ledger))
