"""Repeated Sampling of Random Subsets, RS2, without replacement across epochs (Okanovic et al., ICLR 2024)."""

import numpy as np

from ...config.options import Fraction
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..cyclic_permutation import walked
from ..global_stats import GlobalStats
from ..method import Method


class Rs2(Method):
    """Walks through a permutation of all samples, N - floor(F N) of them an epoch; at its end a new one is drawn.

    fraction: F, the share not trained in an epoch. scale_lr: divide the learning rate by the share that is trained.

    Our choice where the paper is silent: an epoch that reaches the end of a permutation goes on in the next, so that all
    epochs are equally long and none is left behind; a sample that stands in both parts is trained twice.
    """

    may_repeat = True

    fraction: Fraction = 0.3
    scale_lr: bool = False

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        n_total = ledger.n_total
        n = n_total - int(np.floor(self.fraction * n_total))
        times = walked(epoch.number * n, (epoch.number + 1) * n, n_total, epoch, ledger.id, "rs2", everyone)
        (n_hidden,) = everyone.count(times == 0)
        return Plan(
            train=times,
            lr_scale=n_total / n if self.scale_lr else 1.0,
            max_fraction=n_hidden / n_total,
        )
