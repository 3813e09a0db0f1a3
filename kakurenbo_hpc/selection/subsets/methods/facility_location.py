"""Facility location (Wei, Iyer, Bilmes, ICML 2015; as a coreset: Guo et al., DeepCore, DEXA 2022)."""

from typing import ClassVar

from ..covering import cover_greedily
from ..gradients import similarities
from ..scoring import Scores
from ..vectors import FromVectors, Group, chosen, in_order


class FacilityLocation(FromVectors):
    """Greedy maximum, within each class, of sum_i max_{j chosen} s_ij, s_ij = .5 + .5 cos(G_i, G_j).

    Choices nest. Among all samples all pairs would be needed, so there is no such variant.
    """

    matrices: ClassVar[int] = 1

    def choose(self, group: Group) -> Scores:
        """Return the order of the class."""
        order = cover_greedily(similarities(group.rows), group.n).order
        return in_order(chosen(order, group.n), group.n)
