"""Understanding Black-box Predictions via Influence Functions (Koh and Liang, ICML 2017)."""

from typing import ClassVar

import numpy as np

from ....config.options import Positive, option
from ..exact import product, round_all
from ..scoring import Places, Scores
from ..vectors import FromVectors, Group


class Influence(FromVectors):
    """|H^-1 G_i|, how far the classifier's parameters would move without the sample. Keep the highest.

    H is approximated by Kronecker factors A = mean [h; 1][h; 1]^T and B = mean (diag p - p p^T), each damped
    by d = sqrt(damping): H^-1 G_i = (B + d)^-1 r_i [h_i; 1]^T (A + d)^-1. H itself has C (D + 1) rows. Which
    form of influence the published tables have is not known; the norm is our choice.
    """

    wants: ClassVar[tuple[str, ...]] = ("input", "residual", "probability")
    among_all: ClassVar[bool] = True

    damping: Positive = option(0.1, "Damping of H.")

    @property
    def places(self) -> Places:
        """None: scores serve every fraction."""
        return "none"

    def choose(self, group: Group) -> Scores:
        """Return the scores of this rank's rows."""
        u, v = solve_by_factors(group, self.damping)
        return Scores(np.sqrt(np.square(u).sum(axis=1) * np.square(v).sum(axis=1)))


def solve_by_factors(group: Group, damping: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (B + d)^-1 r_i, (S, C), and (A + d)^-1 [h_i; 1], (S, D + 1), of this rank's rows.

    The factors are sums over h and p rounded to 15 bits of the largest entry of all ranks, which are exact.
    """
    rows, comm, d = group.rows, group.comm, np.sqrt(damping)
    with_bias = np.hstack([rows.h, np.ones((len(rows), 1))])
    largest = comm.max(np.array([np.abs(with_bias).max(initial=1)]))[0]
    h, p = round_all(with_bias, largest), round_all(rows.p, 0.75)
    a = comm.sum(h.T @ h) / group.n
    b = (np.diag(comm.sum(p.sum(axis=0))) - comm.sum(p.T @ p)) / group.n
    inverse_a, inverse_b = (np.linalg.inv(x + d * np.eye(len(x))) for x in (a, b))
    v = product(rows.h, inverse_a[:-1]) + inverse_a[-1]
    return product(rows.r, inverse_b), v
