"""Active Learning for Convolutional Neural Networks: A Core-Set Approach (Sener and Savarese, ICLR 2018)."""

from typing import ClassVar

import numpy as np

from ..exact import squares
from ..greedy import Pick, Products, Rule, greedy_order
from ..scoring import Scores
from ..vectors import ByClassOrAll, Group, in_order


class KCenter(ByClassOrAll):
    """k-center greedy: again and again the sample that is farthest from its nearest center, by |h_i - h_j|.

    The first center is the sample of smallest draw. Choices nest. The paper's search for outliers by integer
    programming is left out, as in DeepCore.
    """

    wants: ClassVar[tuple[str, ...]] = ("input",)
    matrices: ClassVar[int] = 1

    def choose(self, group: Group) -> Scores:
        """Return the order of all samples."""
        first = -group.rng.uniform(group.rows.id, "k_center")
        rule = Farthest(group, first)
        return in_order(greedy_order(rule, group.rows, group.n, group.comm), group.n)


class Farthest(Rule):
    """The squared distance to the nearest pick."""

    def __init__(self, group: Group, first: np.ndarray):
        """Begin with these values, (S,), for the first pick."""
        self.value, self._nearest = first, np.full(len(first), np.inf)
        self._squares, self._products = squares(group.rows.h), Products(group.rows.h, group.comm)

    def add(self, pick: Pick) -> None:
        """Take the pick for a center."""
        h = pick.vectors.h
        distance = self._squares + squares(h)[0] - 2 * self._products.with_pick(pick.row, h)
        self.value = self._nearest = np.minimum(self._nearest, distance)
