"""An Empirical Study of Example Forgetting during Deep Neural Network Learning (Toneva et al., ICLR 2019)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from ....core.ledger import Ledger
from ....core.plan import Epoch
from ...global_stats import GlobalStats
from ...method import FORWARD_COLUMNS
from ..scoring import FromTraining, Scores


class Forgetting(FromTraining):
    """How often a sample went from correct to wrong between two epochs. Keep the highest.

    A sample that was never learned counts as more often forgotten than any other can be.
    """

    default_epochs: ClassVar[int] = 20

    @property
    def fewest_epochs(self) -> int:
        """Two, between which something can be forgotten."""
        return 2

    @property
    def columns(self) -> dict[str, tuple]:
        """Labels, and the counts."""
        return {
            "label": FORWARD_COLUMNS["label"],
            "was_correct": (bool, False),
            "learned": (bool, False),
            "forgotten": (np.int32, 0),
        }

    def update(
        self, epoch: Epoch, ledger: Ledger, after: Literal["scoring", "epoch"]
    ) -> Mapping[str, np.ndarray]:
        """Count what this epoch forgot."""
        return {
            "forgotten": ledger.extra["forgotten"] + (ledger.extra["was_correct"] & ~ledger.correct),
            "learned": ledger.extra["learned"] | ledger.correct,
            "was_correct": ledger.correct,
        }

    def of_training(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Scores:
        """Return the counts."""
        never = epoch.number + 1.0
        return Scores(np.where(ledger.extra["learned"], ledger.extra["forgotten"], never))
