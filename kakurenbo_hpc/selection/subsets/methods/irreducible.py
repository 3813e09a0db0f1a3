"""Prioritized Training on Points that are Learnable, ... (Mindermann et al., ICML 2022): irreducible loss."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from ....config.options import Fraction, option
from ....core.ledger import Ledger
from ....core.plan import Epoch, Plan
from ...global_stats import GlobalStats
from ..scoring import FromOutputs


class Irreducible(FromOutputs):
    """Losses by a network that was trained on other samples alone: what `rho_loss` subtracts.

    A hash of (seed, id) holds out a share of the training samples; the network is trained on these and
    scores the others, after the epoch in which the others' mean loss is lowest. The held-out samples have no
    score, and `rho_loss` trains only samples that have one.
    """

    default_epochs: ClassVar[int] = 100
    averages: ClassVar[bool] = False  # every seed holds out others
    lowest_epoch: ClassVar[bool] = True

    hold_out: Fraction = option(
        0.5, "Share of the samples that the network is trained on, and that get no score.", "fraction"
    )

    @property
    def fewest_epochs(self) -> int:
        """One."""
        return 1

    @property
    def outputs(self) -> tuple[str, ...]:
        """The loss."""
        return ("loss",)

    def is_scored(self, epoch: Epoch, ids: np.ndarray) -> np.ndarray:
        """Return who is not held out."""
        return epoch.rng.of_run().uniform(ids, "hold-out") >= self.hold_out

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Train what is held out."""
        return Plan(train=~self.is_scored(epoch, ledger.id), max_fraction=self.max_hidden_fraction)

    @property
    def max_hidden_fraction(self) -> float:
        """Those that are scored, in expectation."""
        return 1 - self.hold_out

    def of_outputs(self, outputs: Mapping[str, np.ndarray], label: np.ndarray) -> np.ndarray:
        """Return the losses."""
        return outputs["loss"].astype(np.float64)
