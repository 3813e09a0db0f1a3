"""Dataset Pruning: Reducing Training Data by Examining Generalization Influence (Yang et al. 2023): DP."""

from typing import ClassVar

import numpy as np

from ....config.options import Count, Fraction, Positive, option
from ....distributed.comm import Comm
from ..exact import round_rows, squares
from ..greedy import best_row, share_row
from ..scoring import Scores
from ..vectors import FromVectors, Group, Vectors
from .influence import solve_by_factors


class DatasetPruning(FromVectors):
    """Hides floor(F N) samples whose influences S_i = H^-1 G_i nearly cancel: least |sum S_i|_2.

    Ours throughout, since no public code was found: H by Kronecker factors, as `influence` has them; the
    search is greedy from nothing, then swaps (the best to take back, then the best to hide) while they help.
    The paper anneals. Not the global optimum, but the same on any number of ranks.
    """

    wants: ClassVar[tuple[str, ...]] = ("input", "residual", "probability")
    among_all: ClassVar[bool] = True

    fraction: Fraction = option(0.3, "Fraction F of the samples that is hidden.", "fraction")
    damping: Positive = option(0.1, "Damping of H.")
    swaps: Count = option(1000, "Most swaps.")

    @property
    def nests(self) -> bool:
        """No: another fraction hides others."""
        return False

    def choose(self, group: Group) -> Scores:
        """Choose whom to hide."""
        u, v = (round_rows(x) for x in solve_by_factors(group, self.damping))
        search = Search(group.rows.id, u, v, group.comm)
        search.run(group.n - group.n_kept, self.swaps)
        kept = ~search.hidden
        return Scores(kept.astype(np.float64), np.where(kept, 0, -1))


class Search:
    """The least norm of a sum of influences u_i v_i^T over a set of given size, greedily, then by swaps."""

    def __init__(self, ids: np.ndarray, u: np.ndarray, v: np.ndarray, comm: Comm):
        """Begin with nothing hidden; u (S, C), v (S, E), rows of ``exact.round_rows``."""
        self._rows = Vectors(ids, ids, v, u, v[:, :0])
        self._u, self._v, self._comm = u.astype(np.float64), v.astype(np.float64), comm
        self._square = squares(u) * squares(v)
        self._with_sum = np.zeros(len(ids))  # <sum of the hidden, S_i>
        self.hidden, self.norm_square = np.zeros(len(ids), bool), 0.0

    def run(self, n: int, most_swaps: int) -> None:
        """Hide n samples of all ranks."""
        for _ in range(n):
            self._move(hide=True)
        for _ in range(most_swaps if n else 0):
            before = self.norm_square, self._with_sum, self.hidden.copy()
            self._move(hide=False)
            self._move(hide=True)
            if not self.norm_square < before[0] * (1 - 1e-12):
                self.norm_square, self._with_sum, self.hidden = before
                return

    def _move(self, hide: bool) -> None:
        """Hide, or take back, the sample that leaves the least norm."""
        sign = 1 if hide else -1
        change = sign * 2 * self._with_sum + self._square
        row = best_row(np.where(self.hidden != hide, -change, -np.inf), self._rows.id, self._comm)
        pick = share_row(self._rows, row, self._comm)
        mine = change[row] if row >= 0 else -np.inf
        self.norm_square += float(self._comm.max(np.array([mine]))[0])
        if row >= 0:
            self.hidden[row] = hide
        products = (self._u @ pick.r[0].astype(np.float64)) * (self._v @ pick.h[0].astype(np.float64))
        self._with_sum = self._with_sum + sign * products
