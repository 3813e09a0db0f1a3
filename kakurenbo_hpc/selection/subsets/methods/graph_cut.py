"""Graph cut (Iyer et al., ALT 2021; as a coreset: Guo et al., DeepCore, DEXA 2022)."""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from ....config.options import option
from ..exact import product, round_all
from ..gradients import similarities
from ..greedy import Pick, Rule, greedy_order
from ..scoring import Scores
from ..vectors import ByClassOrAll, Group, Vectors, in_order


class GraphCut(ByClassOrAll):
    """Greedy on lambda sum_{i; j chosen} s_ij - sum_{j, k chosen} s_jk, s_ij = .5 + .5 cos(G_i, G_j).

    A gain is lambda sum_i s_ix - 2 sum_{j chosen} s_jx; the constant s_xx is left out. The greedy goes on
    when gains are negative. Choices nest. Among all samples no matrix is needed: the sum over i follows from
    one C x (D + 1) sum of unit gradients, whose factors are rounded to 15 bits so that the sum is exact.
    """

    matrices: ClassVar[int] = 1

    trade_off: Annotated[float, Field(ge=0)] = option(1.0, "Weight lambda of covering against diversity.")

    def choose(self, group: Group) -> Scores:
        """Return the order of all samples."""
        rule = (WithinClass if self.class_balance else AmongAll)(group, self.trade_off)
        return in_order(greedy_order(rule, group.rows, group.n, group.comm), group.n)


class WithinClass(Rule):
    """Gains by the matrix of all pairs of a class."""

    def __init__(self, group: Group, trade_off: float):
        """Sum the similarities."""
        self._similarity = similarities(group.rows)
        self.value = trade_off * self._similarity.sum(axis=0)

    def add(self, pick: Pick) -> None:
        """Count the pick as chosen."""
        self.value = self.value - 2 * self._similarity[pick.row]


class AmongAll(Rule):
    """Gains by unit gradients u v^T, u = r / |r|, v = [h; 1] / |[h; 1]|."""

    def __init__(self, group: Group, trade_off: float):
        """Sum the unit gradients of all ranks."""
        self._u, self._v = _unit(group.rows)
        total = group.comm.sum(self._v.T @ self._u)  # exact in any order
        cosines = (product(self._v, total) * self._u).sum(axis=1)
        of_itself = 0.5 * ~self._u.any(axis=1)  # a zero gradient is like itself, though no cosine says so
        self.value = trade_off * (group.n / 2 + cosines / 2 + of_itself)

    def add(self, pick: Pick) -> None:
        """Count the pick as chosen."""
        u, v = _unit(pick.vectors)
        self.value = self.value - (1 + (self._u @ u[0]) * (self._v @ v[0]))


def _unit(rows: Vectors) -> tuple[np.ndarray, np.ndarray]:
    """Return u (S, C) and v (S, D + 1), in units of 2**-15."""
    r, h = rows.r.astype(np.float64), rows.h.astype(np.float64)
    h = np.hstack([h, np.ones((len(h), 1))])
    length = np.sqrt(np.square(r).sum(axis=1, keepdims=True))
    u = np.divide(r, length, out=np.zeros_like(r), where=length > 0)
    return round_all(u, 0.75), round_all(h / np.sqrt(np.square(h).sum(axis=1, keepdims=True)), 0.75)
