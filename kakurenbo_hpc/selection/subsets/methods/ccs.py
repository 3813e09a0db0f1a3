"""Coverage-centric Coreset Selection for High Pruning Rates (Zheng et al., ICLR 2023): CCS."""

from typing import ClassVar

import numpy as np

from ....config.options import Count, Fraction, option
from ....core.ledger import Ledger
from ....core.plan import Epoch
from ...global_stats import GlobalStats
from ..scoring import Places, Scores
from .aum import Aum


class Ccs(Aum):
    """Drops the hardest by AUM, cuts the rest into strata of equal width, and draws evenly from all strata.

    The floor(beta N) samples of lowest AUM are dropped. The strata are filled from the smallest to the
    largest: a stratum gives its size, or an equal share of what is left to choose, whichever is less. Within
    a stratum draws are uniform.

    The authors end the last stratum at 1.0001 times the largest score, which cuts off the top sample where
    that is negative; here the last stratum includes the largest score.
    """

    averages: ClassVar[bool] = False

    fraction: Fraction = option(0.3, "Fraction F of the samples that is hidden.", "fraction")
    beta: Fraction = option(
        0.0, "Share of all samples, those of lowest AUM, that is dropped first; 0.3 at F = 0.9.", "fraction"
    )
    strata: Count = option(50, "Number of strata.")

    @property
    def places(self) -> Places:
        """Among all samples."""
        return "all"

    @property
    def nests(self) -> bool:
        """No: budgets change with the fraction."""
        return False

    def of_training(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Scores:
        """Choose by AUM."""
        aum = ledger.extra["aum"].astype(np.float32)
        return self.choose(aum, epoch, ledger, everyone)

    def choose(self, aum: np.ndarray, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Scores:
        """Choose N - floor(F N) samples, fewer if beta leaves fewer; a sample whose AUM is NaN is easy, +inf.

        Args:
            aum: (S,) float32.
            epoch: gives the draws.
            ledger: the rows of this rank.
            everyone: questions to all ranks.
        """
        n, ids = ledger.n_total, ledger.id
        left = ~everyone.smallest(aum, self.beta, ids)
        low = -everyone.max(np.where(left, -aum, -np.inf))
        high = everyone.max(np.where(left, aum, -np.inf))
        stratum = self._strata_of(aum, low, high)
        sizes = np.array(everyone.count(*(left & (stratum == s) for s in range(self.strata))))
        budgets = _share(sizes, n - int(np.floor(self.fraction * n)))
        draw = epoch.rng.of_run().uniform(ids, "ccs").astype(np.float32)
        chosen = np.zeros(len(ids), bool)
        for number in np.flatnonzero(budgets):
            chosen |= everyone.first(draw, int(budgets[number]), ids, among=left & (stratum == number))
        return Scores(ledger.extra["aum"], np.where(chosen, 0, -1))

    def _strata_of(self, aum: np.ndarray, low: float, high: float) -> np.ndarray:
        width = (high - low) / self.strata or 1.0
        with np.errstate(invalid="ignore"):
            number = np.floor((aum.astype(np.float64) - low) / width)
        return np.clip(np.where(np.isfinite(number), number, self.strata - 1), 0, self.strata - 1).astype(int)


def _share(sizes: np.ndarray, n: int) -> np.ndarray:
    """Return how many to take of each stratum, n in all; the smallest strata come first, ties by number."""
    budgets = np.zeros(len(sizes), np.int64)
    for n_done, number in enumerate(np.argsort(sizes, kind="stable")):
        budgets[number] = min(sizes[number], n // (len(sizes) - n_done))
        n -= budgets[number]
    return budgets
