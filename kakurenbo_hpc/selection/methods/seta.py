"""SeTa: Scale Efficient Training for Large Datasets (CVPR 2025)."""

from typing import Annotated

import numpy as np
from pydantic import Field

from ...config.options import Count, Fraction, option
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..global_stats import GlobalStats
from ..kmeans import find_thresholds
from ..predicted_loss import OrderedByLoss
from ..sampling import has_loss


class Seta(OrderedByLoss):
    """Draws a share at random, groups it by loss, and trains a window of groups that slides to the hard ones.

    In epoch e: floor(keep N) samples are drawn, keep = 1 - r within [.1, 1]; k-means of their losses makes G
    groups, easy to hard; trained are w = round(G x scale) of them (half to even), from group
    e mod (G - w + 1) on. Epoch 0 trains all groups. From delta x all epochs on, what is drawn is trained.

    r: ``prune_ratio``. G: ``groups``. delta: ``anneal``. The authors' values for r, G, scale: 0.1, 5, 0.9 on
    CIFAR; 0, 5, 0.6 on ImageNet.

    Our choices: k-means begins at quantiles, see ``find_thresholds``; a sample that was never seen, or whose
    loss is not finite, is in every window; where a window is empty, what is drawn is trained.
    """

    prune_ratio: Fraction = option(0.0, "Fraction r of the samples that is left out at random.", "fraction")
    groups: Count = option(10, "Number G of groups by loss.")
    scale: Annotated[float, Field(gt=0, le=1)] = option(
        0.5, "Size of the window: the fraction of the groups that is trained.", "fraction"
    )
    anneal: Annotated[float, Field(gt=0, le=1)] = option(
        0.875, "Fraction delta of the epochs that have a window; 1 for all of them.", "fraction"
    )

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Train this epoch's window."""
        train = self.draw(epoch, ledger, everyone)
        if 0 < epoch.number < self.anneal * epoch.total:
            ledger = self.with_losses(epoch, ledger)
            known = train & has_loss(ledger)
            low, high = self.window(epoch, ledger.loss[known], everyone)
            inside = train & (~known | ((low < ledger.loss) & (ledger.loss <= high)))
            train = inside if everyone.count(inside) != [0] else train
        (n_trained,) = everyone.count(train)
        return Plan(train=train, max_fraction=1 - n_trained / ledger.n_total)

    def draw(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> np.ndarray:
        """Mark the floor(keep N) samples with the smallest draws; at least one."""
        keep = max(1 - self.prune_ratio, 0.1)
        if keep == 1:
            return np.ones(len(ledger), bool)
        draw = epoch.rng.uniform(ledger.id, "seta").astype(np.float32)
        return everyone.first(draw, max(1, int(np.floor(keep * ledger.n_total))), ledger.rows)

    def window(self, epoch: Epoch, losses: np.ndarray, everyone: GlobalStats) -> tuple[float, float]:
        """Return the losses between which the window lies, the upper one included."""
        width = max(1, round(self.groups * self.scale))
        first = epoch.number % (self.groups - width + 1)
        edges = [-np.inf, *find_thresholds(losses, self.groups, everyone), np.inf]
        return edges[first], edges[first + width]
