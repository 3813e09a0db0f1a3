"""Prioritized Experience Replay, proportional (Schaul et al. 2015), as sample importance's authors compared with it."""

from typing import Annotated

import numpy as np
from pydantic import Field

from ...config.options import Positive
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..global_stats import GlobalStats
from ..method import Method
from ..sampling import all_once, drawn


class Prop(Method):
    """Each epoch trains N draws with replacement, P(i) in proportion to p_i^alpha, p_i = |loss| + epsilon.

    alpha: 0 draws uniformly, 1 in proportion to the loss. epsilon: keeps every sample drawable. Both are Schaul's.

    Our choices where the paper is silent: epochs before anything was seen train every sample once; samples without a
    finite loss have the largest weight, as Schaul's new transitions have.
    """

    may_repeat = True

    alpha: Annotated[float, Field(ge=0)] = 0.6
    epsilon: Positive = 0.01

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        if everyone.count(ledger.seen) == [0]:
            return all_once(ledger)
        p = np.abs(ledger.loss, dtype=np.float64) + self.epsilon
        return drawn(p**self.alpha, epoch, ledger, everyone, "prop")
