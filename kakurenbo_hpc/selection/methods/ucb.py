"""Accelerating Deep Learning with Dynamic Data Pruning (Raju, Daruwalla, Lipasti 2021): the upper confidence bound."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ...core.ledger import Ledger
from ...core.plan import Epoch
from ..global_stats import GlobalStats
from ..periodic import Periodic
from ..sampling import known


class Ucb(Periodic):
    """Keeps the samples of largest mean + c x spread of their losses, and hides the other floor(F N).

    c: how much uncertainty counts. spread: the moving variance, or its square root.
    """

    c: Annotated[float, Field(ge=0)] = 1.0
    spread: Literal["var", "std"] = "var"

    def score(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        return mean + self.c * (variance if self.spread == "var" else np.sqrt(variance))

    def hidden(self, since: Epoch, ledger: Ledger, everyone: GlobalStats) -> np.ndarray:
        return everyone.smallest(ledger.extra["score"], self.fraction, ledger.id, among=known(ledger))
