"""Baseline of scores: a uniform draw for each sample."""

from typing import ClassVar

from ....core.ledger import Ledger
from ....core.plan import Epoch
from ...global_stats import GlobalStats
from ..scoring import FromTraining, Scores


class RandomScore(FromTraining):
    """A uniform draw in [0, 1), which the seed decides."""

    default_epochs: ClassVar[int] = 0

    def of_training(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Scores:
        """Return the draws."""
        return Scores(epoch.rng.of_run().uniform(ledger.id, "random score"))
