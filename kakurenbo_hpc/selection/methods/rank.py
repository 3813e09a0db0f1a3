"""Prioritized Experience Replay, rank-based (Schaul et al., ICLR 2016), as a sampler of training data."""

from typing import Annotated

import numpy as np
from pydantic import Field

from ...config.options import option
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..global_stats import GlobalStats
from ..predicted_loss import OrderedByLoss
from ..sampling import draw_plan, has_loss, train_all


class Rank(OrderedByLoss):
    """Each epoch trains N draws with replacement, P(i) in proportion to p_i^alpha, p_i = 1 / rank(i).

    rank(i) is 1 for the largest |loss|. The authors of Sample Importance compared with it; alpha is Schaul's.

    Our choices where the paper is silent: epochs before anything was seen train every sample once; equal
    losses rank by id; samples without a finite loss have the weight of rank 1 and take no rank from the
    others.
    """

    may_repeat = True

    alpha: Annotated[float, Field(ge=0)] = option(0.7, "Exponent of the priority: 0 draws uniformly.")

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Draw in proportion to p^alpha."""
        if everyone.count(ledger.seen) == [0]:
            return train_all(ledger)
        ledger = self.with_losses(epoch, ledger)
        known = has_loss(ledger)
        rank = 1.0 + everyone.rank(np.where(known, -np.abs(ledger.loss), np.float32(np.nan)), ledger.id)
        return draw_plan(np.where(known, (1 / rank) ** self.alpha, np.nan), epoch, ledger, everyone, "rank")
