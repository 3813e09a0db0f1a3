"""Herding Dynamical Weights to Learn (Welling, ICML 2009), as iCaRL takes it (Rebuffi et al., CVPR 2017)."""

from typing import ClassVar

import numpy as np

from ..exact import product, squares
from ..greedy import Pick, Products, Rule, greedy_order
from ..scoring import Scores
from ..vectors import ByClassOrAll, Group, in_order


class Herding(ByClassOrAll):
    """Again and again the sample that brings the mean of the chosen h nearest to the mean mu of all.

    The pick after t others is the nearest to (t + 1) mu - sum of the chosen. Choices nest. DeepCore takes the
    farthest, which is why herding comes last in its tables.
    """

    wants: ClassVar[tuple[str, ...]] = ("input",)
    matrices: ClassVar[int] = 1

    def choose(self, group: Group) -> Scores:
        """Return the order of all samples."""
        return in_order(greedy_order(Nearest(group), group.rows, group.n, group.comm), group.n)


class Nearest(Rule):
    """Minus |w - h|^2 + |w|^2, w = (t + 1) mu - sum of the chosen."""

    def __init__(self, group: Group):
        """Find mu."""
        h = group.rows.h
        width = h.shape[1]
        column = np.tile(np.arange(width), len(h))
        mu = group.everyone.class_sum(h.astype(np.float32).ravel(), column, width) / group.n
        self._n_picked = 0
        self._squares, self._products = squares(h), Products(h, group.comm)
        self._with_mu = product(h, mu[:, None])[:, 0]
        self._with_picked = np.zeros(len(h))
        self._renew()

    def _renew(self) -> None:
        with_w = (self._n_picked + 1) * self._with_mu - self._with_picked
        self.value = 2 * with_w - self._squares

    def add(self, pick: Pick) -> None:
        """Take the pick out of w."""
        self._n_picked += 1
        self._with_picked = self._with_picked + self._products.with_pick(pick.row, pick.vectors.h)
        self._renew()
