"""Sample Importance in SGD Training (anonymous, under review)."""

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..global_stats import GlobalStats
from ..method import FORWARD_COLUMNS, Method
from ..sampling import all_once, drawn, known, of_class, scaled
from ..score_file import Paths, read_weights

_TINY = 1e-6  # what a difficulty is at least, where a negative gamma would divide by it


class SampleImportance(Method):
    """After E uniform epochs, each epoch trains N draws with replacement, P(i) = w_i / sum w, w_i = (1 - p_i[y_i])^gamma.

    pretrain_epochs: E; the paper has 10 for CIFAR-10, 1 for CIFAR-100, 5 for small networks.
    gamma: the focus; positive favours hard samples, negative easy ones, 0 draws uniformly (E = 0: SGD with replacement).
    level: draw samples; or classes, by the sum of their weights, and samples of a class uniformly (SGD-SCI).
    metric: what stands in the place of 1 - p: the loss, EL2N or the gradient norm of the last layer.
    focus: random puts a uniform draw in that place, fixed for the run. unbiased: weigh the loss by the inverse of w.
    weights_pass: lagging takes p from the last training pass, at the end of epoch E - 1, as the paper does; fresh from a
    forward pass over all samples before epoch E.
    online: epoch renews the weights before every epoch from E on, step before every step, of the samples just trained
    (the paper's Figure 20); none keeps them to the end of the run.
    weights_from: weights or score files of other runs, taken as they stand, several by their mean; gamma does not act on them.

    Our choices where the paper is silent: gamma acts on every metric; with a negative one 1 - p is at least 1e-6; a
    class's sum and size leave out samples without a weight; such samples (unseen, NaN) have the largest weight.
    """

    may_repeat = True
    weights_column = "importance"

    pretrain_epochs: Annotated[int, Field(ge=0)] = 1
    gamma: Annotated[float, Field(ge=-20, le=20)] = 0.5
    level: Literal["sample", "class"] = "sample"
    weights_pass: Literal["lagging", "fresh"] = "lagging"
    metric: Literal["probability", "loss", "el2n", "grad_norm"] = "probability"
    focus: Literal["importance", "random"] = "importance"
    unbiased: bool = False
    online: Literal["none", "epoch", "step"] = "none"
    weights_from: Paths = []

    @property
    def columns(self) -> dict[str, tuple]:
        """importance: w, once it is known for the rest of the run."""
        observed = [self.metric] if self.measures and self.metric != "loss" else []
        observed += ["label"] if self.level == "class" else []
        return {name: FORWARD_COLUMNS[name] for name in observed} | {"importance": (np.float64, np.nan)}

    @property
    def measures(self) -> bool:
        """Whether the weights come from this run's own samples."""
        return not self.weights_from and self.focus == "importance"

    @property
    def needs_pass(self) -> bool:
        """Whether a forward pass has to tell something before the first draws."""
        return (self.measures and self.gamma != 0) or self.level == "class"

    def init_columns(self, rows: range, n_total: int, fingerprint: str) -> Mapping[str, np.ndarray]:
        if not self.weights_from:
            return {}
        return {"importance": read_weights(self.weights_from, rows, n_total, fingerprint)}

    def needs_scoring_pass(self, epoch: Epoch) -> bool:
        return self.weights_pass == "fresh" and self.needs_pass and self.renews_before(epoch.number)

    def on_scored(self, epoch: Epoch, ledger: Ledger) -> Mapping[str, np.ndarray]:
        return self.renewed(ledger)

    def on_epoch_end(self, epoch: Epoch, ledger: Ledger) -> Mapping[str, np.ndarray]:
        if self.weights_pass == "lagging" and self.renews_before(epoch.number + 1):
            return self.renewed(ledger)
        return {}

    def weighs_after(self, epoch: Epoch) -> bool:
        return epoch.number == self.pretrain_epochs - (self.weights_pass == "lagging")

    def renews_before(self, number: int) -> bool:
        return number == self.pretrain_epochs or (self.online != "none" and number > self.pretrain_epochs)

    def renewed(self, ledger: Ledger) -> dict[str, np.ndarray]:
        """Return w, of what is known of the samples now; NaN where nothing is."""
        if not self.measures:
            return {}
        value = ledger.loss if self.metric == "loss" else ledger.extra[self.metric]
        value = np.where(known(ledger) & np.isfinite(value), value, np.nan).astype(np.float64)
        return {"importance": self.focused(1 - value if self.metric == "probability" else value)}

    def focused(self, difficulty: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.maximum(difficulty, _TINY if self.gamma < 0 else 0) ** self.gamma

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        if epoch.number < self.pretrain_epochs or self.online == "step":
            return all_once(ledger)  # of step by step, the samples that may be drawn
        return self.draws(epoch, ledger, everyone, "sample_importance", ledger.n_total)

    def draws_each_step(self, epoch: Epoch) -> bool:
        return self.online == "step" and epoch.number >= self.pretrain_epochs

    def plan_step(self, epoch: Epoch, step: int, n: int, ledger: Ledger, everyone: GlobalStats) -> Plan:
        if step:
            ledger = ledger.with_columns(self.renewed(ledger))
        return self.draws(epoch, ledger, everyone, f"sample_importance step {step}", n)

    def draws(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats, purpose: str, n: int) -> Plan:
        if self.focus == "random":
            draw = Epoch(0, epoch.total, epoch.seed).uniform(ledger.id, "sample_importance_focus")
            weight = self.focused(draw)
        else:
            weight = ledger.extra["importance"]
        if self.level == "class":
            weight = of_class(scaled(weight, everyone), ledger.extra["label"], everyone)
        return drawn(weight, epoch, ledger, everyone, purpose, unbiased=self.unbiased, n=n)

    def warnings(self, epochs: int) -> list[str]:
        if self.pretrain_epochs < epochs:
            return []
        return [
            f"selection.pretrain_epochs is {self.pretrain_epochs}, but the run ends after {epochs} epochs: every epoch is uniform"
        ]

    @model_validator(mode="after")
    def _consistent(self) -> "SampleImportance":
        if self.weights_from and self.focus == "random":
            raise ValueError("weights_from and focus: random both give the weights; remove one")
        if self.online != "none" and not self.measures:
            raise ValueError(
                f"online: {self.online} renews weights that weights_from or focus: random fixes; remove it"
            )
        if self.pretrain_epochs == 0 and self.weights_pass == "lagging" and self.needs_pass:
            raise ValueError(
                "pretrain_epochs is 0, so nothing is known at first; set weights_pass: fresh, or pretrain_epochs: 1"
            )
        return self
