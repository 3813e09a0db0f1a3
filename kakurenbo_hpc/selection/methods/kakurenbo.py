"""KAKURENBO: Adaptively Hiding Samples in Deep Neural Network Training (Nguyen et al., NeurIPS 2023)."""

from bisect import bisect_right
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from ...config.options import Count, Fraction, Probability, option
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..global_stats import GlobalStats
from ..predicted_loss import OrderedByLoss

DECAY_TENTHS = [0, 3, 6, 8]  # of the run's epochs: where Table 2 lets the fraction fall


class Kakurenbo(OrderedByLoss):
    """Hides samples of low loss that are predicted correctly and with confidence, and scales the rate up.

    F: ``max_fraction``. tau: ``confidence``. d: ``drop_top``. MB, RF, LR: the components of Table 5. In
    epoch e:

    1. F_e = F x decay(e), the fraction that may be hidden (RF). Candidates are the floor(F_e N) samples of
       lowest loss.
    2. Candidates that were predicted correctly with a confidence of at least tau are hidden; the others move
       back to training (MB), and nothing takes their place. F*_e is the fraction that is hidden.
    3. The others are trained at the learning rate eta_e / (1 - F*_e) (LR).
    4. After training, a forward pass over the hidden samples refreshes loss, correctness and confidence.
    5. DropTop (Section D): the floor(d N) samples of highest loss are left out too.

    The first epoch hides nothing, since nothing was seen before.

    Our choices where the paper is silent: the fourth factor of decay(e), .4, after the paper's [1, .8, .6];
    ties by id; what DropTop leaves out counts in F* and is refreshed; the refresh pass is in eval mode, since
    the authors' train mode moves BatchNorm's statistics.
    """

    needs_losses = True
    scaling_options = ("scale_lr",)

    max_fraction: Fraction = option(0.3, "Largest fraction F of the samples that is hidden.", "fraction")
    fraction_decay: list[Probability] = option(
        [1.0, 0.8, 0.6, 0.4],
        "Factors of max_fraction (component RF); the paper lists three, the fourth is ours, for after its "
        "last epoch.",
    )
    fraction_epochs: list[Annotated[int, Field(ge=0)]] | None = option(
        None,
        "Epoch from which each factor of fraction_decay holds, the first one 0; the paper's [30, 60, 80] is "
        "[0, 30, 60, 80] here. If not given, .3, .6 and .8 of the run's epochs, rounded down, as in Table 2.",
        "epochs",
    )
    confidence: Probability = option(
        0.7, "Confidence tau, the largest class probability, that a hidden sample must have at least."
    )
    move_back: bool = option(
        True, "Train candidates that are predicted wrongly or without confidence (component MB)."
    )
    reduce_fraction: bool = option(True, "Reduce max_fraction by fraction_decay (component RF).")
    scale_lr: bool = option(
        True, "Divide the learning rate by one minus the fraction hidden, after warm-up (component LR)."
    )
    lr_fraction: Literal["actual", "ceiling"] = option(
        "actual",
        "Fraction by which the rate is scaled: what is actually hidden, or the ceiling F_e, as in "
        "the authors' code.",
    )
    drop_top: Fraction = option(
        0.0, "Fraction d of the samples, those of highest loss, that is left out too (DropTop).", "fraction"
    )
    refresh_every: Count = option(
        1, "Epochs from one forward pass over the hidden samples to the next.", "epochs"
    )
    refresh_mode: Literal["eval", "train"] = option(
        "eval", "Mode of the network in that pass; train, the authors' mode, moves BatchNorm's statistics."
    )
    refresh_augment: bool = option(True, "Whether that pass uses the training augmentation.")

    @property
    def max_hidden_fraction(self) -> float:
        """The ceiling and DropTop."""
        return self.max_fraction + self.drop_top

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Hide what is easy and certain."""
        ceiling, ledger = self.ceiling_of(epoch), self.with_losses(epoch, ledger)
        seen, ids = ledger.seen, ledger.rows
        easy = everyone.smallest(ledger.loss, ceiling, ids, among=seen & ~np.isnan(ledger.loss))
        certain = ledger.correct & (ledger.confidence >= self.confidence)
        hidden = easy & certain if self.move_back else easy
        hard = everyone.largest(ledger.loss, self.drop_top, ids, among=seen)
        left_out = hidden | hard

        n_easy, n_hidden, n_left_out = everyone.count(easy, hidden, left_out)
        share = n_left_out / ledger.n_total if self.lr_fraction == "actual" else ceiling
        return Plan(
            train=~left_out,
            refresh=left_out if self.refreshes_after(epoch) else None,
            refresh_mode=self.refresh_mode,
            refresh_augment=self.refresh_augment,
            lr_scale=1 / (1 - share) if self.scale_lr else 1.0,
            max_fraction=ceiling,
            n_candidates=n_easy,
            n_moved_back=n_easy - n_hidden,
        )

    def ceiling_of(self, epoch: Epoch) -> float:
        """Return F_e."""
        if not self.reduce_fraction:
            return self.max_fraction
        begins = self.fraction_epochs or [tenths * epoch.total // 10 for tenths in DECAY_TENTHS]
        begins = begins[: len(self.fraction_decay)]
        return self.max_fraction * self.fraction_decay[bisect_right(begins, epoch.number) - 1]

    def refreshes_after(self, epoch: Epoch) -> bool:
        """Return whether this epoch has a refresh pass; the last one needs none, since no plan follows."""
        return epoch.number % self.refresh_every == 0 and epoch.number < epoch.total - 1

    @model_validator(mode="after")
    def _consistent(self) -> "Kakurenbo":
        times, factors = self.fraction_epochs, self.fraction_decay
        if times is None and len(factors) > len(DECAY_TENTHS):
            raise ValueError(
                f"fraction_decay has {len(factors)} factors, but by default only {len(DECAY_TENTHS)} have an "
                "epoch; write fraction_epochs, the epoch from which each factor holds"
            )
        if times is not None and (
            times != sorted(set(times)) or times[:1] != [0] or len(times) > len(factors)
        ):
            raise ValueError(
                f"fraction_epochs is {times}, but must begin with 0, rise, and be no longer than "
                f"fraction_decay, {factors}; write the epoch from which each factor holds"
            )
        if self.max_fraction + self.drop_top >= 1:
            raise ValueError(
                "max_fraction and drop_top together must be below 1; something has to be trained"
            )
        return self
