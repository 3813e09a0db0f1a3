"""OrderDP: Order-based Dynamic Data Pruning (ICLR 2026)."""

from typing import Annotated

import numpy as np
from pydantic import Field

from ...config.options import option
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..global_stats import GlobalStats
from ..predicted_loss import OrderedByLoss

Share = Annotated[float, Field(gt=0, le=1)]


class OrderDP(OrderedByLoss):
    """Draws floor(s N) samples at random, and trains the floor(q x that) of them of highest loss.

    s: ``drawn``. q: ``kept``. From the first epoch to the last. The authors' values, s and q: 0.8 and 0.375
    on CIFAR-100 with ResNet-50; on ImageNet 0.75 and 0.8 with ResNet-50, 0.8 and 0.9 with ResNet-18.

    Our choices: a sample that was never seen, or whose loss is not finite, counts as of the highest loss (the
    authors' code begins with 3, below first losses, so that what was not drawn yet is dropped as easy); the
    draw is by the losses before this epoch, not one epoch older; of equal losses the smaller id is trained;
    at least one sample is.
    """

    drawn: Share = option(0.75, "Fraction s of the samples that is drawn at random.", "fraction")
    kept: Share = option(0.85, "Fraction q of those that is trained, those of highest loss.", "fraction")

    @property
    def max_hidden_fraction(self) -> float:
        """What is not drawn, or drawn and not kept."""
        return 1 - self.drawn * self.kept

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Train the highest losses of a random share."""
        n_drawn = max(1, int(np.floor(self.drawn * ledger.n_total)))
        n_trained = max(1, int(np.floor(self.kept * n_drawn)))
        draw = epoch.rng.uniform(ledger.id, "orderdp").astype(np.float32)
        drawn = everyone.first(draw, n_drawn, ledger.rows)
        loss = self.with_losses(epoch, ledger).loss
        easiness = np.where(np.isnan(loss), np.float32(-np.inf), -loss)
        return Plan(
            train=everyone.first(easiness, n_trained, ledger.rows, among=drawn),
            max_fraction=1 - n_trained / ledger.n_total,
            n_candidates=n_drawn,
        )
