"""D2 Pruning: Message Passing for Balancing Diversity & Difficulty in Data Pruning (Maharana et al. 2024)."""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from ....config.options import Count, option
from ..exact import squares
from ..scoring import Scores
from ..vectors import FromVectors, Group, chosen, in_order
from .cal import nearest


class D2Pruning(FromVectors):
    """Difficulty of a sample and of its neighbors; who is chosen makes its neighbors less wanted.

    x_i = |r_i| + sum over the k nearest j of exp(-gamma_f d_ij^2) |r_j|. The sample of largest x is chosen,
    its neighbors lose exp(-gamma_r d_ij^2) x, and so on. Choices nest.

    Our choices: within each class; difficulty is EL2N of the same network; d is |h_i - h_j| over the mean of
    the class's distances to neighbors.
    """

    matrices: ClassVar[int] = 2

    neighbors: Count = option(5, "Number k of neighbors.")
    forward: Annotated[float, Field(ge=0)] = option(1.0, "gamma_f of the messages before choosing.")
    reverse: Annotated[float, Field(ge=0)] = option(1.0, "gamma_r of the messages of the chosen.")

    def choose(self, group: Group) -> Scores:
        """Return the order of the class."""
        rows, n = group.rows, group.n
        near = nearest(rows.h, self.neighbors)
        square, h = squares(rows.h), rows.h.astype(np.float64)
        distance = np.stack(
            [square + square[j] - 2 * np.einsum("ij,ij->i", h, h[j]) for j in near.T] or [np.zeros(n)], axis=1
        )
        distance = np.maximum(distance, 0) / (distance.mean() or 1.0)
        difficulty = np.sqrt(squares(rows.r))
        wanted = difficulty.copy()
        for column, j in enumerate(near.T):
            wanted += np.exp(-self.forward * distance[:, column]) * difficulty[j]
        order = np.empty(n, np.int64)
        for number in range(n):
            pick = order[number] = int(np.argmax(wanted))
            lost = np.exp(-self.reverse * distance[pick, : near.shape[1]]) * wanted[pick]
            wanted[near[pick]] -= lost
            wanted[pick] = -np.inf
        return in_order(chosen(order, n), n)
