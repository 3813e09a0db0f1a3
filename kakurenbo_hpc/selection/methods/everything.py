"""Train on every sample once: what all methods are compared with."""

import numpy as np

from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..global_stats import GlobalStats
from ..method import Method


class Everything(Method):
    """The baseline: nothing is hidden."""

    @property
    def max_hidden_fraction(self) -> float:
        return 0.0

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        return Plan(train=np.ones(len(ledger), bool))
