"""Hide one random share of the samples for the whole run (Random in InfoBatch): what any score must beat."""

import numpy as np

from ...config.options import Fraction
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..global_stats import GlobalStats
from ..method import Method


class RandomStatic(Method):
    """Hides floor(F N) samples: those with the smallest draws, the same in every epoch, ties by id.

    fraction: F. scale_lr: divide the learning rate by the share that is trained, as KAKURENBO does.
    """

    fraction: Fraction = 0.3
    scale_lr: bool = False

    @property
    def max_hidden_fraction(self) -> float:
        return self.fraction

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        draw = Epoch(0, epoch.total, epoch.seed).uniform(ledger.id, "random_static").astype(np.float32)
        hidden = everyone.smallest(draw, self.fraction, ledger.id)
        (n_hidden,) = everyone.count(hidden)
        return Plan(
            train=~hidden,
            lr_scale=1 / (1 - n_hidden / ledger.n_total) if self.scale_lr else 1.0,
            max_fraction=self.fraction,
        )
