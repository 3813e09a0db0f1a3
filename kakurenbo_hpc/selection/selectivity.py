"""How eagerly Selective-Backprop picks: the exponent beta, and the choice that it makes of losses already known."""

from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from ..core.ledger import Ledger
from ..core.plan import Epoch, Plan
from .global_stats import GlobalStats
from .method import Method


class Selectivity(Method):
    """selectivity: s, the share that is expected to be trained; beta = 1 / s - 1. Give one of the two.

    The default is s = 0.33, the paper's for CIFAR-10 (CIFAR-100: 0.5, SVHN: 0.25).
    """

    selectivity: Annotated[float, Field(gt=0, le=1)] | None = None
    beta: Annotated[float, Field(ge=0)] | None = None

    @property
    def exponent(self) -> float:
        """beta, given or from the selectivity."""
        return self.beta if self.beta is not None else 1 / (self.selectivity or 0.33) - 1

    @property
    def max_hidden_fraction(self) -> float:
        return 1 - 1 / (1 + self.exponent)

    def chosen_by(
        self, loss: np.ndarray, is_known: np.ndarray, epoch: Epoch, ledger: Ledger, everyone: GlobalStats
    ) -> Plan:
        """Return the plan that trains each sample with probability CDF(l_i)^beta, CDF(l) the share of all losses <= l.

        loss: (S,) float32; is_known: (S,) bool, where it says something; other samples are trained.
        """
        (n_known,) = everyone.count(is_known)
        share_above = everyone.percentile(np.where(is_known, -loss, np.float32(np.nan)), ledger.id)
        n_above = np.rint(share_above * ledger.n_total)
        cdf = np.where(is_known, (n_known - n_above) / max(1, n_known), 1)
        hidden = epoch.uniform(ledger.id, "selective_backprop") >= cdf**self.exponent
        (n_candidates,) = everyone.count(cdf < 1)
        return Plan(train=~hidden, max_fraction=n_candidates / ledger.n_total, n_candidates=n_candidates)

    @model_validator(mode="after")
    def _one_of_two(self) -> "Selectivity":
        if self.selectivity is not None and self.beta is not None:
            raise ValueError(
                "selectivity and beta are both given, but one follows from the other; remove one"
            )
        return self
