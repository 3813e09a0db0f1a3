"""Static random pruning: hide one random fraction of the samples for the whole run (Random in InfoBatch)."""

import numpy as np

from ...config.options import Fraction, option
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..global_stats import GlobalStats
from ..method import Method


class RandomStatic(Method):
    """Hides floor(F N) samples: those with the smallest draws, the same in all epochs.

    Any score must do better.

    F: ``fraction``.
    """

    scaling_options = ("scale_lr",)

    fraction: Fraction = option(0.3, "Fraction F of the samples that is hidden.", "fraction")
    scale_lr: bool = option(
        False, "Divide the learning rate by the fraction that is trained, as KAKURENBO does."
    )

    @property
    def max_hidden_fraction(self) -> float:
        """Always this fraction."""
        return self.fraction

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Hide by the run's draws."""
        draw = epoch.rng.of_run().uniform(ledger.id, "random_static").astype(np.float32)
        hidden = everyone.smallest(draw, self.fraction, ledger.id)
        (n_hidden,) = everyone.count(hidden)
        return Plan(
            train=~hidden,
            lr_scale=1 / (1 - n_hidden / ledger.n_total) if self.scale_lr else 1.0,
            max_fraction=self.fraction,
        )
