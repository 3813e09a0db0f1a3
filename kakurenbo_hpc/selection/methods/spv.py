"""Active Bias: SGD sampled by prediction variance (Chang et al. 2017), Eq. 6 of Sample Importance in SGD Training."""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import Field

from ...config.options import Positive
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..global_stats import GlobalStats
from ..method import FORWARD_COLUMNS, Method
from ..sampling import all_once, drawn, known


class Spv(Method):
    """Each epoch trains N draws with replacement, P(i) in proportion to sqrt(var + var^2 / (|H| - 1)) + epsilon.

    H: the history of p_i[y_i], the probability of the target, one for each epoch in which the sample was trained; var:
    its sample variance. burn_in: epochs of the uniform sampler at the start, at least 2. epsilon: of the weight.

    Our choices where the paper is silent: the weights are renewed each epoch; a sample trained several times in an
    epoch adds its last probability; NaN is not added; the variance divides by |H| - 1; samples with fewer than two
    probabilities, or whose last loss is not finite, have the largest weight.
    """

    may_repeat = True

    burn_in: Annotated[int, Field(ge=0)] = 10
    epsilon: Positive = 0.2

    @property
    def columns(self) -> dict[str, tuple]:
        history = {"n_noted": (np.int32, 0), "mean": (np.float64, 0.0), "squares": (np.float64, 0.0)}
        return {"probability": FORWARD_COLUMNS["probability"], **history}

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        if epoch.number < max(self.burn_in, 2):
            return all_once(ledger)
        before = ledger.extra["n_noted"] - 1
        enough = known(ledger) & (before >= 1)
        var = ledger.extra["squares"] / np.maximum(before, 1)
        weight = np.sqrt(var + var**2 / np.maximum(before, 1)) + self.epsilon
        return drawn(np.where(enough, weight, np.nan), epoch, ledger, everyone, "spv")

    def on_epoch_end(self, epoch: Epoch, ledger: Ledger) -> Mapping[str, np.ndarray]:
        """Source: Welford 1962; squares is the sum of squared distances from the mean."""
        p, mean = ledger.extra["probability"].astype(np.float64), ledger.extra["mean"]
        new = (ledger.seen_epoch == epoch.number) & np.isfinite(p)
        n = ledger.extra["n_noted"] + new.astype(np.int32)
        step = np.where(new, p - mean, 0)
        mean = mean + step / np.maximum(n, 1)
        squares = ledger.extra["squares"] + step * np.where(new, p - mean, 0)
        return {"n_noted": n, "mean": mean, "squares": squares}

    def warnings(self, epochs: int) -> list[str]:
        if max(self.burn_in, 2) < epochs:
            return []
        return [
            f"selection.burn_in is {self.burn_in}, but the run ends after {epochs} epochs: every epoch is uniform"
        ]
