"""Selection by loss percentile, shared by the forms of Selective-Backprop: probability CDF(loss)^beta."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from ..config.options import option
from ..core.ledger import Ledger
from ..core.plan import Epoch, Plan
from .global_stats import GlobalStats
from .method import Method


class LossPercentile(Method):
    """Trains sample i with probability CDF(l_i)^beta; the expected share trained is s = 1 / (1 + beta).

    beta: ``exponent``. s: ``selectivity``.
    """

    selectivity: Annotated[float, Field(gt=0, le=1)] | None = option(
        None,
        "Expected fraction s of the samples that is trained; beta = 1 / s - 1. If neither is "
        "given, 0.33, the paper's "
        "for CIFAR-10 (CIFAR-100: 0.5, SVHN: 0.25).",
        "fraction",
    )
    beta: Annotated[float, Field(ge=0)] | None = option(
        None, "Exponent of the loss percentile, instead of selectivity; larger values train fewer samples."
    )

    @property
    def exponent(self) -> float:
        """The exponent beta, given or from the selectivity."""
        return self.beta if self.beta is not None else 1 / (self.selectivity or 0.33) - 1

    @property
    def max_hidden_fraction(self) -> float:
        """The expected share, 1 - s."""
        return 1 - 1 / (1 + self.exponent)

    def plan_by_loss(
        self, loss: np.ndarray, is_known: np.ndarray, epoch: Epoch, ledger: Ledger, everyone: GlobalStats
    ) -> Plan:
        """Train sample i with probability CDF(l_i)^beta, CDF(l) the share of the known losses <= l.

        Args:
            loss: (S,) float32.
            is_known: (S,) bool, samples whose loss counts; all others are trained.
            epoch: whose draws decide.
            ledger: the rows of this rank.
            everyone: the rows of all ranks.
        """
        (n_known,) = everyone.count(is_known)
        share_above = everyone.percentile(np.where(is_known, -loss, np.float32(np.nan)), ledger.id)
        n_above = np.rint(share_above * ledger.n_total)
        cdf = np.where(is_known, (n_known - n_above) / max(1, n_known), 1)
        probability = cdf**self.exponent
        hidden = epoch.rng.uniform(ledger.id, "selective_backprop") >= probability
        (n_candidates,) = everyone.count(cdf < 1)
        return Plan(
            train=~hidden,
            max_fraction=n_candidates / ledger.n_total,
            n_candidates=n_candidates,
            probability=probability.astype(np.float32),
        )

    @model_validator(mode="after")
    def _one_of_two(self) -> LossPercentile:
        if self.selectivity is not None and self.beta is not None:
            raise ValueError(
                "selectivity and beta are both given, but one follows from the other; remove one"
            )
        return self
