"""Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning (Okanovic et al. 2024): RS2."""

import numpy as np

from ...config.options import Fraction, option
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..cyclic_permutation import count_visits
from ..global_stats import GlobalStats
from ..method import Method


class Rs2(Method):
    """Goes through permutations of all samples, N - floor(F N) of them each epoch, without replacement.

    F: ``fraction``.

    Our choice where the paper is silent: an epoch that reaches the end of a permutation goes on in the
    next, so that all epochs are equally long and no sample is left behind; a sample that is in both parts
    is trained twice.
    """

    may_repeat = "in an epoch that goes on in the next permutation"
    scaling_options = ("scale_lr",)

    fraction: Fraction = option(0.3, "Fraction F of the samples that is not trained in an epoch.", "fraction")
    scale_lr: bool = option(
        False, "Divide the learning rate by the fraction that is trained, as KAKURENBO does."
    )

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Train the next part of the permutation."""
        n_total = ledger.n_total
        n = n_total - int(np.floor(self.fraction * n_total))
        start = epoch.number * n
        times = count_visits(start, start + n, n_total, epoch.rng, ledger.id, "rs2", everyone)
        (n_hidden,) = everyone.count(times == 0)
        return Plan(
            train=times,
            lr_scale=n_total / n if self.scale_lr else 1.0,
            max_fraction=n_hidden / n_total,
        )
