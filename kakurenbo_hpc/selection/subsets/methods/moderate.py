"""Moderate Coreset: A Universal Method of Data Selection ... (Xia et al., ICLR 2023)."""

from typing import ClassVar

import numpy as np

from ..exact import squares
from ..scoring import Scores
from ..vectors import FromVectors, Group, in_order


class Moderate(FromVectors):
    """Within each class, the samples whose distance from the mean of the class's h is nearest to the median.

    Our choices: nearness is in ranks of distance, so that as many stay below the median as above it and
    choices nest; ties go to the smaller id.
    """

    wants: ClassVar[tuple[str, ...]] = ("input",)

    def choose(self, group: Group) -> Scores:
        """Return the order of the class."""
        h = group.rows.h.astype(np.float64)
        mean = h.mean(axis=0)
        distance = squares(h) - 2 * h @ mean  # up to |mean|^2
        rank = np.empty(group.n)
        rank[np.argsort(distance, kind="stable")] = np.arange(group.n)
        place = np.empty(group.n, np.int64)
        from_median = np.abs(rank - (group.n - 1) / 2)
        place[np.argsort(from_median, kind="stable")] = np.arange(group.n)
        return in_order(place, group.n)
