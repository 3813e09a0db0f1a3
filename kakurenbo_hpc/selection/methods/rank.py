"""Prioritized Experience Replay, rank-based (Schaul et al. 2015), as sample importance's authors compared with it."""

from typing import Annotated

import numpy as np
from pydantic import Field

from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..global_stats import GlobalStats
from ..method import Method
from ..sampling import all_once, drawn, known


class Rank(Method):
    """Each epoch trains N draws with replacement, P(i) in proportion to p_i^alpha, p_i = 1 / rank(i).

    rank(i): 1 for the largest |loss|. alpha: Schaul's.

    Our choices where the paper is silent: epochs before anything was seen train every sample once; equal losses rank by
    id; samples without a finite loss have the weight of rank 1 and take no rank from the others.
    """

    may_repeat = True

    alpha: Annotated[float, Field(ge=0)] = 0.7

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        if everyone.count(ledger.seen) == [0]:
            return all_once(ledger)
        is_known = known(ledger)
        rank = 1.0 + everyone.rank(np.where(is_known, -np.abs(ledger.loss), np.float32(np.nan)), ledger.id)
        return drawn(np.where(is_known, (1 / rank) ** self.alpha, np.nan), epoch, ledger, everyone, "rank")
