"""Instance-dependent Early Stopping (ICLR 2025): IES."""

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ...config.options import option
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..float_keys import CHUNK
from ..global_stats import GlobalStats
from ..method import Method
from ..sampling import has_loss

_WINDOW = 5  # losses, which make three second differences
_FIRST = 6  # losses, so four differences, before anything is left out


class Ies(Method):
    """Leaves a sample out while its loss is mastered: the second differences of its losses are near 0.

    After epoch t a sample is left out if the mean of its last three |l_t - 2 l_(t-1) + l_(t-2)| is below
    delta (``threshold``), once it has six losses. What is left out is passed forward after training, and so
    returns when its loss moves. The authors' delta: 1e-3 on CIFAR-10, 2e-3 on CIFAR-100.

    Our choices: the refresh pass is in eval mode under the training augmentation, as KAKURENBO's; a loss that
    is not finite keeps its sample in training for the next five epochs; where all samples would be left out,
    all are trained.
    """

    needs_losses = True

    threshold: Annotated[float, Field(ge=0)] = option(
        1e-3, "Mean second difference delta of the loss below which a sample is left out."
    )

    @property
    def columns(self) -> dict[str, tuple]:
        """The last five losses, the latest last, and how many there were in all."""
        return {"losses": (np.dtype((np.float32, _WINDOW)), np.nan), "n_losses": (np.int32, 0)}

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Hide what is mastered."""
        hidden = np.zeros(len(ledger), bool)
        for start in range(0, len(ledger), CHUNK):
            losses = ledger.extra["losses"][start : start + CHUNK]
            hidden[start : start + CHUNK] = mean_second_difference(losses) < self.threshold
        hidden &= (ledger.extra["n_losses"] >= _FIRST) & has_loss(ledger)
        (n_hidden,) = everyone.count(hidden)
        if n_hidden == ledger.n_total:
            hidden, n_hidden = np.zeros(len(ledger), bool), 0
        return Plan(
            train=~hidden,
            refresh=hidden if epoch.number < epoch.total - 1 else None,
            max_fraction=n_hidden / ledger.n_total,
            n_candidates=n_hidden,
        )

    def update(
        self, epoch: Epoch, ledger: Ledger, after: Literal["scoring", "epoch"]
    ) -> Mapping[str, np.ndarray]:
        """Move the window on by this epoch's losses."""
        new = ledger.seen_epoch == epoch.number
        moved = np.concatenate([ledger.extra["losses"][:, 1:], ledger.loss[:, None]], axis=1)
        return {
            "losses": np.where(new[:, None], moved, ledger.extra["losses"]),
            "n_losses": ledger.extra["n_losses"] + new.astype(np.int32),
        }


def mean_second_difference(losses: np.ndarray) -> np.ndarray:
    """Return (S,) float64, the mean absolute second difference of (S, J) losses; NaN where one is NaN."""
    by_epoch = losses.T.astype(np.float64, order="C")  # along rows, which is eight times as fast
    with np.errstate(invalid="ignore"):  # inf - inf
        return np.abs(np.diff(by_epoch, n=2, axis=0)).mean(axis=0)
