"""Importance sampling with replacement, by the loss (after Katharopoulos & Fleuret 2018), as in KAKURENBO's comparisons."""

from typing import Literal

import numpy as np

from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..global_stats import GlobalStats
from ..method import Method
from ..sampling import all_once, drawn


class Iswr(Method):
    """Each epoch trains N draws with replacement, P(i) = l_i / sum l.

    scores: full, a forward pass over all samples before every epoch; or lagging, the loss of the last time a sample was
    drawn. reweight: multiply the loss of a draw by 1 / (N P(i)), which keeps the expected gradient.

    Our choices where the paper is silent: with lagging scores, epochs before anything was seen train every sample once;
    negative losses count as 0; samples without a finite loss have the largest weight.
    """

    may_repeat = True

    scores: Literal["full", "lagging"] = "full"
    reweight: bool = False

    def needs_scoring_pass(self, epoch: Epoch) -> bool:
        return self.scores == "full"

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        if everyone.count(ledger.seen) == [0]:
            return all_once(ledger)
        return drawn(np.maximum(ledger.loss, 0), epoch, ledger, everyone, "iswr", unbiased=self.reweight)
