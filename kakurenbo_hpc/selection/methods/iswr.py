"""Importance sampling with replacement, by the loss (after Katharopoulos and Fleuret, ICML 2018)."""

from typing import Literal

import numpy as np
from pydantic import model_validator

from ...config.options import option
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..global_stats import GlobalStats
from ..predicted_loss import OrderedByLoss
from ..sampling import draw_plan, train_all


class Iswr(OrderedByLoss):
    """Each epoch trains N draws with replacement, P(i) = l_i / sum l.

    The form that KAKURENBO's authors compared with.

    Our choices where the paper is silent: with lagging scores, epochs before anything was seen train every
    sample once; negative losses count as 0; samples without a finite loss have the largest weight.
    """

    may_repeat = True

    scores: Literal["full", "lagging"] = option(
        "full",
        "Losses to draw by: full, of a forward pass over all samples before every epoch; or "
        "lagging, of the last time "
        "that a sample was drawn.",
    )
    reweight: bool = option(
        False, "Multiply the loss of a draw by 1 / (N P(i)), which keeps the expected gradient."
    )

    def needs_scoring_pass(self, epoch: Epoch) -> bool:
        """Before every epoch, for full scores."""
        return self.scores == "full"

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Draw in proportion to the loss."""
        if everyone.count(ledger.seen) == [0]:
            return train_all(ledger)
        loss = np.maximum(self.with_losses(epoch, ledger).loss, 0)
        return draw_plan(loss, epoch, ledger, everyone, "iswr", unbiased=self.reweight)

    @model_validator(mode="after")
    def _consistent(self) -> "Iswr":
        if self.scores == "full" and self.loss == "predicted":
            raise ValueError(
                "loss is predicted, but with scores: full every loss is new; write scores: lagging"
            )
        return self
