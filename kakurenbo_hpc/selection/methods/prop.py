"""Prioritized Experience Replay, proportional (Schaul et al., ICLR 2016), as a sampler of training data."""

from typing import Annotated

import numpy as np
from pydantic import Field

from ...config.options import Positive, option
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..global_stats import GlobalStats
from ..predicted_loss import OrderedByLoss
from ..sampling import draw_plan, train_all


class Prop(OrderedByLoss):
    """Each epoch trains N draws with replacement, P(i) in proportion to p_i^alpha, p_i = |loss| + epsilon.

    The authors of Sample Importance compared with it; alpha and epsilon are Schaul's.

    Our choices where the paper is silent: epochs before anything was seen train every sample once; samples
    without a finite loss have the largest weight, as Schaul's new transitions have.
    """

    may_repeat = True

    alpha: Annotated[float, Field(ge=0)] = option(
        0.6, "Exponent of the priority: 0 draws uniformly, 1 in proportion to the loss."
    )
    epsilon: Positive = option(0.01, "Added to the loss, so that every sample may be drawn.")

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Draw in proportion to p^alpha."""
        if everyone.count(ledger.seen) == [0]:
            return train_all(ledger)
        p = np.abs(self.with_losses(epoch, ledger).loss, dtype=np.float64)
        p += self.epsilon
        p **= self.alpha
        return draw_plan(p, epoch, ledger, everyone, "prop")
