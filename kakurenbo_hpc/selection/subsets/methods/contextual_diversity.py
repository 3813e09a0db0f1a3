"""Contextual Diversity for Active Learning (Agarwal et al., ECCV 2020), in DeepCore's form."""

from typing import ClassVar

import numpy as np

from ..greedy import Pick, Rule, greedy_order
from ..scoring import Scores
from ..vectors import ByClassOrAll, Group, in_order

_SMALLEST = 1e-8  # probabilities are clamped here, so that none that underflowed makes a NaN


class ContextualDiversity(ByClassOrAll):
    """k-center greedy with the symmetric divergence (KL(p||q) + KL(q||p)) / 2 of class probabilities.

    DeepCore's form, for class labels; the authors' own is for dense prediction. Choices nest. Logarithms
    differ between libraries, so divergences are compared in float32.
    """

    wants: ClassVar[tuple[str, ...]] = ("probability",)

    def choose(self, group: Group) -> Scores:
        """Return the order of all samples."""
        first = -group.rng.uniform(group.rows.id, "contextual_diversity")
        rule = MostDivergent(group, first)
        return in_order(greedy_order(rule, group.rows, group.n, group.comm), group.n)


class MostDivergent(Rule):
    """The divergence from the nearest pick."""

    def __init__(self, group: Group, first: np.ndarray):
        """Begin with these values, (S,), for the first pick."""
        self.value, self._nearest = first, np.full(len(first), np.inf, np.float32)
        self._p = np.maximum(group.rows.p.astype(np.float64), _SMALLEST)
        self._log = np.log(self._p)

    def add(self, pick: Pick) -> None:
        """Take the pick for a center."""
        q = np.maximum(pick.vectors.p.astype(np.float64), _SMALLEST)
        divergence = ((self._p - q) * (self._log - np.log(q))).sum(axis=1) / 2
        self._nearest = np.minimum(self._nearest, divergence.astype(np.float32))
        self.value = self._nearest.astype(np.float64)
