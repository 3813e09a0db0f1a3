"""Accelerating Deep Learning with Dynamic Data Pruning (Raju, Daruwalla, Lipasti 2021): epsilon-greedy."""

import numpy as np

from ...config.options import Probability, option
from ...core.ledger import Ledger
from ...core.rng import Stream
from ..dynamic_pruning import DynamicPruning
from ..global_stats import GlobalStats
from ..sampling import has_loss


class EpsilonGreedy(DynamicPruning):
    """Keeps the N - floor(F N) samples of largest mean loss, but draws a share epsilon of them at random.

    Of the samples kept, floor(epsilon (N - floor(F N))) are drawn from those of low mean loss.

    Our choice where the paper is silent: epsilon 0.1.
    """

    epsilon: Probability = option(
        0.1, "Fraction of the samples kept that is drawn at random from those of low mean loss.", "fraction"
    )

    def score(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """Return the mean loss."""
        return mean

    def choose_hidden(self, rng: Stream, ledger: Ledger, everyone: GlobalStats) -> np.ndarray:
        """Mark the samples of lowest score, without the random ones that are kept."""
        n_hidden = int(np.floor(self.fraction * ledger.n_total))
        n_random = int(np.floor(self.epsilon * (ledger.n_total - n_hidden)))
        low = everyone.first(ledger.extra["score"], n_hidden + n_random, ledger.id, among=has_loss(ledger))
        draw = rng.uniform(ledger.id, "epsilon_greedy").astype(np.float32)
        return low & ~everyone.first(draw, n_random, ledger.id, among=low)
