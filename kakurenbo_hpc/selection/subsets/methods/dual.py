"""Lightweight Dataset Pruning without Full Training via Example Difficulty ... (Cho et al. 2025): DUAL."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from ....config.options import Fraction, Positive, option
from ....core.ledger import Ledger
from ....core.plan import Epoch
from ...global_stats import GlobalStats
from ..scoring import Places, Scores
from .dyn_unc import DynUnc


class Dual(DynUnc):
    """DUAL: within J epochs, the standard deviation of p_y times 1 - its mean; mean over all windows.

    Only the first epochs are needed: 30 for CIFAR, 60 for ImageNet. Keep the highest; or, with ``sample``
    beta, draw N - floor(F N) samples without replacement in proportion to score x Beta(m; a, b), where m is
    the sample's mean p_y, r the share hidden, b = 15 (1 - mu) (1 - r^c), a = 16 - b, and mu the mean m of
    the 10 samples of highest score. A sample whose weight is 0 is drawn last, by id.
    """

    default_epochs: ClassVar[int] = 30
    best: ClassVar[int] = 10

    sample: Literal["highest", "beta"] = option(
        "highest", "Keep the highest scores; or sample by the Beta distribution, for one fraction."
    )
    fraction: Fraction = option(0.3, "Fraction F of the samples that sample: beta hides.", "fraction")
    c: Positive = option(4.0, "Exponent c_D; 4 for CIFAR-100, 5.5 for CIFAR-10, 11 for ImageNet.")

    @property
    def places(self) -> Places:
        """Among all samples, if sampled."""
        return "all" if self.sample == "beta" else "none"

    @property
    def nests(self) -> bool:
        """Not if sampled, since weights follow the fraction."""
        return self.sample == "highest"

    @property
    def columns(self) -> dict[str, tuple]:
        """Those of Dyn-Unc, and the sum of p_y."""
        return {**super().columns, "sum_of_p": (np.float64, 0.0)}

    def n_windows(self, n_epochs: int) -> int:
        """Return how many windows count in a run of so many epochs: all."""
        return n_epochs - self.window + 1

    def of_window(self, p: np.ndarray) -> np.ndarray:
        """Return uncertainty times difficulty, (S,), of a window (J, S)."""
        return super().of_window(p) * (1 - p.mean(axis=0))

    def update(
        self, epoch: Epoch, ledger: Ledger, after: Literal["scoring", "epoch"]
    ) -> Mapping[str, np.ndarray]:
        """As Dyn-Unc; and add up p_y."""
        added = {"sum_of_p": ledger.extra["sum_of_p"] + ledger.extra["probability"]}
        return {**super().update(epoch, ledger, after), **added}

    def of_training(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Scores:
        """Return the means, and who is drawn."""
        score = super().of_training(epoch, ledger, everyone).score
        if self.sample == "highest":
            return Scores(score)
        mean_p = ledger.extra["sum_of_p"] / epoch.number
        weight = self.weigh(score, mean_p, ledger, everyone)
        draw = -np.log1p(-epoch.rng.of_run().uniform(ledger.id, "dual"))
        with np.errstate(divide="ignore"):
            arrival = np.where(weight > 0, draw / weight, np.inf)
        # Arrivals are distinct in float32 but for a few, whom ids order.
        place = everyone.rank(arrival.astype(np.float32), ledger.id)
        n_kept = ledger.n_total - int(np.floor(self.fraction * ledger.n_total))
        return Scores(score, np.where(place < n_kept, place, -1))

    def weigh(
        self, score: np.ndarray, mean_p: np.ndarray, ledger: Ledger, everyone: GlobalStats
    ) -> np.ndarray:
        """Return Beta(m; a, b) x score, (S,) float64, up to a factor; 0 where either is not finite."""
        best = everyone.first(-score.astype(np.float32), self.best, ledger.id)
        mu = everyone.mean(np.where(best, mean_p, np.nan).astype(np.float32)).value
        b = 15 * (1 - mu) * (1 - self.fraction**self.c)
        a = 16 - b
        with np.errstate(divide="ignore", invalid="ignore"):
            weight = mean_p ** (a - 1) * (1 - mean_p) ** (b - 1) * score / _beta_function(a, b)
        return np.where(np.isfinite(weight), weight, 0.0)


def _beta_function(a: float, b: float) -> float:
    from scipy.special import beta

    return float(beta(a, b)) if b > 0 else 1.0
