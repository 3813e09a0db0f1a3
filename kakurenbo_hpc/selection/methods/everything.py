"""Baseline: train on every sample once per epoch."""

import numpy as np

from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..global_stats import GlobalStats
from ..method import Method


class Everything(Method):
    """Hides nothing: what all methods are compared with."""

    @property
    def max_hidden_fraction(self) -> float:
        """Nothing."""
        return 0.0

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Train every row."""
        return Plan(train=np.ones(len(ledger), bool))
