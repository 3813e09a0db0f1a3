"""Random pruning: hide a fresh random fraction of the samples each epoch (Random* in InfoBatch)."""

import numpy as np

from ...config.options import Fraction, option
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..global_stats import GlobalStats
from ..method import Method


class Random(Method):
    """Hides floor(F N) samples: those with the smallest draws, ties by id. Any selection must do better.

    F: ``fraction``; or ``fractions``, one for each epoch.
    """

    scaling_options = ("scale_lr",)

    fraction: Fraction = option(0.3, "Fraction F of the samples that is hidden.", "fraction")
    fractions: list[Fraction] = option(
        [],
        "Fraction F of each epoch instead, such as another method's; the last holds to the end.",
        "fraction",
    )
    scale_lr: bool = option(
        False, "Divide the learning rate by the fraction that is trained, as KAKURENBO does."
    )

    @property
    def max_hidden_fraction(self) -> float:
        """The fraction, or the largest of them."""
        return max(self.fractions, default=self.fraction)

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Hide by this epoch's draws."""
        fraction = (
            self.fractions[min(epoch.number, len(self.fractions) - 1)] if self.fractions else self.fraction
        )
        draw = epoch.rng.uniform(ledger.id, "random").astype(np.float32)
        hidden = everyone.smallest(draw, fraction, ledger.id)
        (n_hidden,) = everyone.count(hidden)
        return Plan(
            train=~hidden,
            lr_scale=1 / (1 - n_hidden / ledger.n_total) if self.scale_lr else 1.0,
            max_fraction=fraction,
        )
