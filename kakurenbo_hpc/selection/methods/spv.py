"""Active Bias: Training More Accurate Networks by Emphasizing High Variance Samples (Chang et al. 2017)."""

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ...config.options import Positive, option
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..global_stats import GlobalStats
from ..method import FORWARD_COLUMNS, Method
from ..sampling import draw_plan, has_loss, train_all


class Spv(Method):
    """Each epoch trains N draws with replacement, P(i) ~ sqrt(var + var^2 / (|H| - 1)) + epsilon.

    SGD sampled by prediction variance, Eq. 6 of Sample Importance in SGD Training. H: the history of
    p_i[y_i], the probability of the target, one for each epoch in which the sample was trained. var: its
    sample variance.

    Our choices where the paper is silent: the weights are renewed each epoch; a sample trained several
    times in an epoch adds its last probability; NaN is not added; the variance divides by |H| - 1; samples
    with fewer than two probabilities, or whose last loss is not finite, have the largest weight.
    """

    may_repeat = True

    burn_in: Annotated[int, Field(ge=0)] = option(
        10, "Uniform epochs at the start; at least 2 are made.", "epochs"
    )
    epsilon: Positive = option(0.2, "Added to the weight, so that every sample may be drawn.")

    @property
    def columns(self) -> dict[str, tuple]:
        """The latest probability; number, mean and sum of squared deviations of the history."""
        history = {"n_noted": (np.int32, 0), "mean": (np.float64, 0.0), "squares": (np.float64, 0.0)}
        return {"probability": FORWARD_COLUMNS["probability"], **history}

    def warnings(self, epochs: int) -> list[str]:
        """Warn of a run that ends before the first draws."""
        if max(self.burn_in, 2) < epochs:
            return []
        return [
            f"selection.burn_in is {self.burn_in}, but the run ends after {epochs} epochs: every "
            "epoch is uniform"
        ]

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Draw in proportion to the standard deviation, with its confidence bound."""
        if epoch.number < max(self.burn_in, 2):
            return train_all(ledger)
        degrees = ledger.extra["n_noted"] - 1
        enough = has_loss(ledger) & (degrees >= 1)
        var = ledger.extra["squares"] / np.maximum(degrees, 1)
        weight = np.sqrt(var + var**2 / np.maximum(degrees, 1)) + self.epsilon
        return draw_plan(np.where(enough, weight, np.nan), epoch, ledger, everyone, "spv")

    def update(
        self, epoch: Epoch, ledger: Ledger, after: Literal["scoring", "epoch"]
    ) -> Mapping[str, np.ndarray]:
        """Add this epoch's probabilities to the history.

        Source: Welford 1962; squares is the sum of squared distances from the mean.
        """
        p, mean = ledger.extra["probability"].astype(np.float64), ledger.extra["mean"]
        new = (ledger.seen_epoch == epoch.number) & np.isfinite(p)
        n = ledger.extra["n_noted"] + new.astype(np.int32)
        step = np.where(new, p - mean, 0)
        mean = mean + step / np.maximum(n, 1)
        squares = ledger.extra["squares"] + step * np.where(new, p - mean, 0)
        return {"n_noted": n, "mean": mean, "squares": squares}
