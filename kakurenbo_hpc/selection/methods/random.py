"""Hide a fresh random share of the samples each epoch (Random* in InfoBatch): what any selection must beat."""

import numpy as np

from ...config.options import Fraction
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..global_stats import GlobalStats
from ..method import Method


class Random(Method):
    """Hides floor(F N) samples: those with the smallest draws, ties by id.

    fraction: F. scale_lr: divide the learning rate by the share that is trained, as KAKURENBO does.
    """

    fraction: Fraction = 0.3
    scale_lr: bool = False

    @property
    def max_hidden_fraction(self) -> float:
        return self.fraction

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        draw = epoch.uniform(ledger.id, "random").astype(np.float32)
        hidden = everyone.smallest(draw, self.fraction, ledger.id)
        (n_hidden,) = everyone.count(hidden)
        return Plan(
            train=~hidden,
            lr_scale=1 / (1 - n_hidden / ledger.n_total) if self.scale_lr else 1.0,
            max_fraction=self.fraction,
        )
