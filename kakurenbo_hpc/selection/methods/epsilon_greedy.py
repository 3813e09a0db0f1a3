"""Accelerating Deep Learning with Dynamic Data Pruning (Raju, Daruwalla, Lipasti 2021): epsilon-greedy."""

import numpy as np

from ...config.options import Probability
from ...core.ledger import Ledger
from ...core.plan import Epoch
from ..global_stats import GlobalStats
from ..periodic import Periodic
from ..sampling import known


class EpsilonGreedy(Periodic):
    """Keeps the samples of largest mean loss, but fills a share epsilon of the places at random from the others.

    epsilon: of the N - floor(F N) samples kept, floor(epsilon (N - floor(F N))) are such random ones.

    Our choice where the paper is silent: epsilon 0.1.
    """

    epsilon: Probability = 0.1

    def score(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        return mean

    def hidden(self, since: Epoch, ledger: Ledger, everyone: GlobalStats) -> np.ndarray:
        n_hidden = int(np.floor(self.fraction * ledger.n_total))
        n_random = int(np.floor(self.epsilon * (ledger.n_total - n_hidden)))
        low = everyone.first(ledger.extra["score"], n_hidden + n_random, ledger.id, among=known(ledger))
        draw = since.uniform(ledger.id, "epsilon_greedy").astype(np.float32)
        return low & ~everyone.first(draw, n_random, ledger.id, among=low)
