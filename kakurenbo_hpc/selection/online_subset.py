"""Online subsets: chosen by vectors of the network that is being trained, anew every few epochs."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from pydantic import Field

from ..config.data_options import DataOptions
from ..config.options import Count, Fraction, option
from ..core.ledger import Ledger
from ..core.plan import Epoch, Plan
from .global_stats import GlobalStats
from .sampling import train_all
from .subsets.scoring import Scores
from .subsets.vectors import FromVectors


class OnlineSubset(FromVectors):
    """Trains a subset, perhaps with weights, which a pass over all samples chooses every R epochs.

    F: ``fraction``, f = 1 - F. R: ``every``. kappa: ``warm_start``. The first W = ceil(f int(kappa E)) epochs
    train everything, and selections come in the epochs W, W + R, ... Without warm start, a random subset is
    trained until the first selection, in epoch R. Weights have mean 1 over the subset.

    Our choices where papers and codes differ: the pass is in eval mode without augmentation; the epochs that
    the authors leave out after warm start are trained on subsets.
    """

    fraction: Fraction = option(0.3, "Fraction F of every class, or of all, that is hidden.", "fraction")
    every: Count = option(20, "Epochs from one selection to the next.", "epochs")
    warm_start: Annotated[float, Field(ge=0, lt=1)] = option(
        0.0, "Fraction kappa of the epochs whose compute on subsets goes into first epochs on everything."
    )

    @property
    def columns(self) -> dict[str, tuple]:
        """Weights of the subset in force, 0 outside of it, NaN before the first selection; who filled up."""
        filled = {"subset_filled": (np.bool_, False)} if self.fills else {}
        return {"subset_weight": (np.float32, np.nan), **filled}

    @property
    def max_hidden_fraction(self) -> float:
        """At most this fraction; warm start hides nothing."""
        return self.fraction

    def n_warm(self, n_epochs: int) -> int:
        """Return W."""
        return math.ceil((1 - self.fraction) * int(self.warm_start * n_epochs))

    def first_selection(self, n_epochs: int) -> int:
        """Return the epoch of the first selection."""
        return self.n_warm(n_epochs) or self.every

    def selects_subset(self, epoch: Epoch) -> bool:
        """Every R epochs from the first selection on."""
        since = epoch.number - self.first_selection(epoch.total)
        return since >= 0 and since % self.every == 0

    def check_run(self, epochs: int, data: DataOptions) -> None:
        """Refuse a run that ends before the first selection, or that has no samples to judge by."""
        if self.first_selection(epochs) >= epochs:
            raise ValueError(
                f"selection.every is {self.every}, but the run ends after {epochs} epochs, before the first "
                "selection; lower it, or give training.epochs more"
            )
        if getattr(self, "target", "train") == "validation" and not data.holdout:
            raise ValueError(
                "selection.target is validation, but data.holdout is 0; hold samples out of the training "
                "part, such as data.holdout: 0.1, or set target: train"
            )

    def columns_of(self, scores: Scores, label: np.ndarray, everyone: GlobalStats) -> dict[str, np.ndarray]:
        """Return the ledger columns of this rank's rows, which hold the subset.

        Args:
            scores: of these rows, by the scoring method.
            label: (S,) int64.
            everyone: the rows of all ranks.
        """
        assert scores.place is not None
        chosen = scores.place >= 0
        if self.nests:  # an order of each class, which goes on to its end
            n = everyone.add(np.bincount(label, minlength=int(everyone.max(label)) + 1))
            chosen &= scores.place < (n - np.floor(self.fraction * n).astype(np.int64))[label]
        weight = np.where(chosen, 1.0 if scores.weight is None else scores.weight, 0)
        columns: dict[str, np.ndarray] = {"subset_weight": weight.astype(np.float32)}
        if scores.filled is not None:
            columns["subset_filled"] = scores.filled & chosen
        return columns

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Train everything, a random subset, or the one in force.

        As many as ``fraction`` says are hidden. If the subset is smaller than what is left, samples that are
        not in it are trained as well, those of the largest ids, with weight 1.
        """
        if epoch.number < self.n_warm(epoch.total):
            return train_all(ledger)
        weight = np.nan_to_num(ledger.extra["subset_weight"])
        chosen = weight > 0
        if epoch.number < self.first_selection(epoch.total) or everyone.count(chosen) == [0]:
            draw = epoch.rng.of_run().uniform(ledger.id, "online subset").astype(np.float32)
            hidden = everyone.smallest(draw, self.fraction, ledger.rows)
            return Plan(train=~hidden, max_fraction=self.fraction)
        hidden = everyone.smallest(weight, self.fraction, ledger.rows, among=~chosen)
        filled = ledger.extra["subset_filled"] if self.fills else hidden[:0]
        n_hidden, n_filled = everyone.count(hidden, filled)
        mean = everyone.mean(np.where(chosen, weight, np.float32(np.nan))).value
        return Plan(
            train=~hidden,
            weight=np.where(chosen, weight / np.float32(mean), np.float32(1)) if self.weighted else None,
            max_fraction=n_hidden / ledger.n_total,
            n_filled=n_filled if self.fills else None,
        )
