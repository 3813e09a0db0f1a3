"""Active Learning by Acquiring Contrastive Examples (Margatina et al., EMNLP 2021): CAL."""

from typing import ClassVar

import numpy as np

from ....config.options import Count, option
from ..exact import squares
from ..scoring import Places, Scores
from ..vectors import FromVectors, Group

_SMALLEST = 1e-8  # probabilities are clamped here


class Cal(FromVectors):
    """The mean of KL(p_j || p_i) over the k samples j of the class whose h is nearest. Keep the highest.

    Neighbors at equal distances come in order of ids; a sample is not its own. DeepCore keeps the smallest.
    """

    wants: ClassVar[tuple[str, ...]] = ("input", "probability")
    matrices: ClassVar[int] = 2

    neighbors: Count = option(10, "Number k of neighbors.")

    @property
    def places(self) -> Places:
        """None: scores serve every fraction."""
        return "none"

    def choose(self, group: Group) -> Scores:
        """Return the scores of the class; 0 for a class of one."""
        near = nearest(group.rows.h, self.neighbors)
        p = np.maximum(group.rows.p.astype(np.float64), _SMALLEST)
        log = np.log(p)
        total = np.zeros(len(p))
        for j in near.T:
            total += (p[j] * (log[j] - log)).sum(axis=1)
        return Scores(total / max(1, near.shape[1]))


def nearest(h: np.ndarray, k: int) -> np.ndarray:
    """Return the k nearest other rows of each row by (distance, row), (n, min(k, n - 1)) int64."""
    square, h = squares(h), h.astype(np.float64)
    distance = square[:, None] + square - 2 * (h @ h.T)
    np.fill_diagonal(distance, np.inf)
    k = min(k, len(h) - 1)
    if k <= 0:
        return np.zeros((len(h), 0), np.int64)
    # Of those as near as the k-th, rows of smaller number come first, whatever partition does with ties.
    limit = np.partition(distance, k - 1, axis=1)[:, k - 1]
    found = np.empty((len(h), k), np.int64)
    for row, (of_row, most) in enumerate(zip(distance, limit, strict=True)):
        candidates = np.flatnonzero(of_row <= most)
        found[row] = candidates[np.argsort(of_row[candidates], kind="stable")[:k]]
    return found
