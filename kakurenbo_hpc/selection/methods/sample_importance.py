"""Sample Importance in SGD Training (anonymous, under review)."""

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from ...config.options import option
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..global_stats import GlobalStats
from ..method import FORWARD_COLUMNS, Level, StepMethod
from ..sampling import average_by_class, draw_plan, has_loss, scale_to_float32, train_all
from ..score_file import Paths, read_weights

_MIN_DIFFICULTY = 1e-6  # a negative gamma divides by the difficulty


class SampleImportance(StepMethod):
    """After E uniform epochs, each epoch trains N draws with replacement, P(i) = w_i / sum w.

    w_i: (1 - p_i[y_i])^gamma. E: ``pretrain_epochs``. p_i[y_i]: the probability of the target, at the end
    of epoch E - 1; w is kept from then on, unless it is renewed ``online``. At class level (SGD-SCI), P(c)
    is the sum of the weights of class c over the sum of all, and its samples are drawn uniformly. With
    gamma 0 and E 0 this is SGD with replacement.

    Our choices where the paper is silent: gamma acts on every metric; with a negative one 1 - p is at least
    1e-6; a class's sum and size leave out samples without a weight; such samples (unseen, NaN) have the
    largest weight.
    """

    may_repeat = True

    pretrain_epochs: Annotated[int, Field(ge=0)] = option(
        1,
        "Uniform epochs E at the start; the paper has 10 for CIFAR-10, 1 for CIFAR-100, 5 for "
        "small networks.",
        "epochs",
    )
    gamma: Annotated[float, Field(ge=-20, le=20)] = option(
        0.5,
        "Exponent of the difficulty: positive favours hard samples, negative easy ones, 0 draws uniformly.",
    )
    level: Literal["sample", "class"] = option(
        "sample",
        "Draw samples; or classes by the sum of their weights, and their samples uniformly (SGD-SCI).",
    )
    weights_pass: Literal["lagging", "fresh"] = option(
        "lagging",
        "Where p comes from: lagging, the last training pass, as in the paper; fresh, a forward "
        "pass over all samples "
        "before epoch E.",
    )
    metric: Literal["probability", "loss", "el2n", "grad_norm"] = option(
        "probability",
        "Difficulty of a sample: 1 - p, its loss, EL2N, or the gradient norm of the last layer.",
    )
    gradient: Literal["last_layer", "full"] = option(
        "last_layer",
        "Parameters whose gradient grad_norm measures; full takes a backward pass of every sample, and needs "
        "weights_pass: fresh.",
    )
    focus: Literal["importance", "random"] = option(
        "importance",
        "Difficulty by the metric; or random, a uniform draw for each sample that stays for the run.",
    )
    unbiased: bool = option(False, "Weigh the loss of a draw by the inverse of w, with mean 1.")
    online: Literal["none", "epoch", "step"] = option(
        "none",
        "When weights are renewed after epoch E: never; before every epoch; or before every step, "
        "for the samples just "
        "trained (the paper's Figure 20).",
    )
    weights_from: Paths = option(
        [], "Weights or score files of other runs, several by their mean; gamma does not act on them."
    )

    @property
    def columns(self) -> dict[str, tuple]:
        """What the metric and class level need, and importance, w once it is known."""
        declared: list[str] = [self.metric] if self.measures and self.metric != "loss" else []
        declared += ["label"] if self.level == "class" else []
        return {name: FORWARD_COLUMNS[name] for name in declared} | {"importance": (np.float64, np.nan)}

    @property
    def needs_full_gradient(self) -> bool:
        """Whether a fresh pass measures the gradient in all parameters."""
        return self.gradient == "full"

    @property
    def measures(self) -> bool:
        """Whether the weights come from this run's own samples."""
        return not self.weights_from and self.focus == "importance"

    @property
    def needs_statistics(self) -> bool:
        """Whether some forward pass must come before the first draws."""
        return (self.measures and self.gamma != 0) or self.level == "class"

    def init_columns(self, rows: range, n_total: int, fingerprint: str) -> Mapping[str, np.ndarray]:
        """Return the weights of other runs, if there are any."""
        if not self.weights_from:
            return {}
        return {"importance": read_weights(self.weights_from, rows, n_total, fingerprint)}

    def warnings(self, epochs: int) -> list[str]:
        """Warn of a run that ends before the first draws."""
        if self.pretrain_epochs < epochs:
            return []
        return [
            f"selection.pretrain_epochs is {self.pretrain_epochs}, but the run ends after {epochs} epochs: "
            "every epoch is uniform"
        ]

    def needs_scoring_pass(self, epoch: Epoch) -> bool:
        """Before epochs for which fresh weights are computed."""
        return self.weights_pass == "fresh" and self.needs_statistics and self.renews_before(epoch.number)

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Train everything once in the uniform epochs, then N draws."""
        if self.selection_level(epoch) == "step" or epoch.number < self.pretrain_epochs:
            return train_all(ledger)
        return self.draw(epoch, ledger, everyone, "sample_importance", ledger.n_total)

    def selection_level(self, epoch: Epoch) -> Level:
        """Return "step" where weights are renewed before every step."""
        return "step" if self.online == "step" and epoch.number >= self.pretrain_epochs else "epoch"

    def plan_step(self, epoch: Epoch, step: int, n: int, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Draw n by the weights that the step before has renewed."""
        if step:
            ledger = ledger.with_columns(self.renew_weights(ledger))
        return self.draw(epoch, ledger, everyone, f"sample_importance step {step}", n)

    def update(
        self, epoch: Epoch, ledger: Ledger, after: Literal["scoring", "epoch"]
    ) -> Mapping[str, np.ndarray]:
        """Renew the weights after every scoring pass, or at the end of the epoch before they are used."""
        lags = self.weights_pass == "lagging" and self.renews_before(epoch.number + 1)
        return self.renew_weights(ledger) if after == "scoring" or lags else {}

    def renews_before(self, number: int) -> bool:
        """Return whether epoch ``number`` draws by new weights."""
        return number == self.pretrain_epochs or (self.online != "none" and number > self.pretrain_epochs)

    def weights(self, epoch: Epoch, ledger: Ledger, wanted: bool) -> np.ndarray | None:
        """Return w when draws by it begin; in epochs that the job lists, what w would be by this epoch."""
        if epoch.number == self.pretrain_epochs - (self.weights_pass == "lagging"):
            return self.drawn_by(epoch, ledger)
        if not wanted:
            return None
        return self.renew_weights(ledger).get("importance", self.drawn_by(epoch, ledger))

    def renew_weights(self, ledger: Ledger) -> dict[str, np.ndarray]:
        """Return w by what is known of the samples now; NaN where nothing is."""
        if not self.measures:
            return {}
        value = ledger.loss if self.metric == "loss" else ledger.extra[self.metric]
        value = np.where(has_loss(ledger) & np.isfinite(value), value, np.nan).astype(np.float64)
        return {"importance": self.apply_gamma(1 - value if self.metric == "probability" else value)}

    def apply_gamma(self, difficulty: np.ndarray) -> np.ndarray:
        """Return difficulty^gamma."""
        with np.errstate(over="ignore"):
            return np.maximum(difficulty, _MIN_DIFFICULTY if self.gamma < 0 else 0) ** self.gamma

    def draw(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats, purpose: str, n: int) -> Plan:
        """Return the plan of n draws."""
        weight = self.drawn_by(epoch, ledger)
        if self.level == "class":
            weight = average_by_class(scale_to_float32(weight, everyone), ledger.extra["label"], everyone)
        return draw_plan(weight, epoch, ledger, everyone, purpose, unbiased=self.unbiased, n=n)

    def drawn_by(self, epoch: Epoch, ledger: Ledger) -> np.ndarray:
        """Return the w by which samples are drawn, (S,) float64."""
        if self.focus == "random":
            return self.apply_gamma(epoch.rng.of_run().uniform(ledger.id, "sample_importance_focus"))
        return ledger.extra["importance"]

    @model_validator(mode="after")
    def _consistent(self) -> "SampleImportance":
        if self.weights_from and self.focus == "random":
            raise ValueError("weights_from and focus: random both give the weights; remove one")
        if self.online != "none" and not self.measures:
            raise ValueError(
                f"online: {self.online} renews weights that weights_from or focus: random fixes; remove it"
            )
        if self.gradient == "full" and (self.metric != "grad_norm" or self.weights_pass != "fresh"):
            raise ValueError(
                "gradient: full is measured as grad_norm in a fresh pass; set metric: grad_norm and "
                "weights_pass: fresh"
            )
        if self.pretrain_epochs == 0 and self.weights_pass == "lagging" and self.needs_statistics:
            raise ValueError(
                "pretrain_epochs is 0, so nothing is known at first; set weights_pass: fresh, or "
                "pretrain_epochs: 1"
            )
        return self
