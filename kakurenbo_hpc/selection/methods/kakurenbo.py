"""KAKURENBO: Adaptively Hiding Samples in Deep Neural Network Training (Truong Thao Nguyen et al., NeurIPS 2023)."""

from bisect import bisect_right
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from ...config.options import Count, Fraction, Probability
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..global_stats import GlobalStats
from ..method import Method


class Kakurenbo(Method):
    """Hides the samples of lowest loss that are also predicted correctly and with confidence, and scales the rate up.

    max_fraction: F, the ceiling on the share hidden. confidence: tau.
    fraction_decay, fraction_epochs: F_e = F x decay[j] from fraction_epochs[j] on (RF); the paper's [30, 60, 80] is [0, 30, 60, 80] here.
    move_back (MB), reduce_fraction (RF), scale_lr (LR): the paper's components, Table 5.
    lr_fraction: divide the rate by one minus what was really hidden, or minus the ceiling, as the authors' code did.
    drop_top: d, the share of highest losses left out too (DropTop, Section D).
    refresh_every, refresh_mode, refresh_augment: the forward pass over the hidden, every so many epochs; in eval mode
    (our choice: train mode, the authors', moves BatchNorm's statistics); under the training augmentation.

    Our choices where the paper is silent: ties by id; what DropTop leaves out counts in F* and is refreshed.
    """

    needs_losses = True

    max_fraction: Fraction = 0.3
    fraction_decay: list[Probability] = [1.0, 0.8, 0.6, 0.4]
    fraction_epochs: list[Annotated[int, Field(ge=0)]] = [0]
    confidence: Probability = 0.7
    move_back: bool = True
    reduce_fraction: bool = True
    scale_lr: bool = True
    lr_fraction: Literal["actual", "ceiling"] = "actual"
    drop_top: Fraction = 0.0
    refresh_every: Count = 1
    refresh_mode: Literal["eval", "train"] = "eval"
    refresh_augment: bool = True

    @property
    def max_hidden_fraction(self) -> float:
        return self.max_fraction + self.drop_top

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        ceiling = self.fraction(epoch.number)
        seen, ids = ledger.seen, ledger.rows
        easy = everyone.smallest(ledger.loss, ceiling, ids, among=seen & ~np.isnan(ledger.loss))
        sure = ledger.correct & (ledger.confidence >= self.confidence)
        hidden = easy & sure if self.move_back else easy
        hard = everyone.largest(ledger.loss, self.drop_top, ids, among=seen)
        left_out = hidden | hard

        n_easy, n_hidden, n_left_out = everyone.count(easy, hidden, left_out)
        share = n_left_out / ledger.n_total if self.lr_fraction == "actual" else ceiling
        return Plan(
            train=~left_out,
            refresh=left_out if self.refreshes(epoch) else None,
            refresh_mode=self.refresh_mode,
            refresh_augment=self.refresh_augment,
            lr_scale=1 / (1 - share) if self.scale_lr else 1.0,
            max_fraction=ceiling,
            n_candidates=n_easy,
            n_moved_back=n_easy - n_hidden,
        )

    def fraction(self, number: int) -> float:
        """Return F_e, the ceiling of epoch ``number``."""
        if not self.reduce_fraction:
            return self.max_fraction
        return self.max_fraction * self.fraction_decay[max(0, bisect_right(self.fraction_epochs, number) - 1)]

    def refreshes(self, epoch: Epoch) -> bool:
        """The last epoch needs none: nobody will ask for the losses."""
        return epoch.number % self.refresh_every == 0 and epoch.number < epoch.total - 1

    @model_validator(mode="after")
    def _consistent(self) -> "Kakurenbo":
        times = self.fraction_epochs
        if times != sorted(set(times)) or times[:1] != [0] or len(times) > len(self.fraction_decay):
            raise ValueError(
                f"fraction_epochs is {times}, but must begin with 0, rise, and be no longer than fraction_decay, "
                f"{self.fraction_decay}; write the epoch from which each factor holds"
            )
        if self.max_fraction + self.drop_top >= 1:
            raise ValueError(
                "max_fraction and drop_top together must be below 1; something has to be trained"
            )
        return self
