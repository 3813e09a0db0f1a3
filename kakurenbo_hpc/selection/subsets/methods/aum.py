"""Identifying Mislabeled Data using the Area Under the Margin Ranking (Pleiss et al., NeurIPS 2020)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from ....core.ledger import Ledger
from ....core.plan import Epoch
from ...global_stats import GlobalStats
from ...method import FORWARD_COLUMNS
from ..scoring import FromTraining, Scores


class Aum(FromTraining):
    """The sum over epochs of p_y - max other p, of training passes, as CCS takes it. Low is hard.

    The original takes the mean of differences of logits.
    """

    default_epochs: ClassVar[int] = 200

    @property
    def fewest_epochs(self) -> int:
        """One."""
        return 1

    @property
    def columns(self) -> dict[str, tuple]:
        """Labels, the margin of an epoch, and the sum."""
        forward = {name: FORWARD_COLUMNS[name] for name in ("label", "margin")}
        return {**forward, "aum": (np.float64, 0.0)}

    def update(
        self, epoch: Epoch, ledger: Ledger, after: Literal["scoring", "epoch"]
    ) -> Mapping[str, np.ndarray]:
        """Add the margins of this epoch."""
        return {"aum": ledger.extra["aum"] + ledger.extra["margin"]}

    def of_training(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Scores:
        """Return the sums."""
        return Scores(ledger.extra["aum"])
