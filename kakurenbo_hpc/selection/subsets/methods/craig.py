"""Coresets for Data-efficient Training of Machine Learning Models (Mirzasoleiman et al. 2020): CRAIG."""

from typing import ClassVar, Literal

import numpy as np

from ....config.options import Fraction, option
from ..covering import Covering, cover_greedily
from ..exact import quantise
from ..gradients import Variant, distances
from ..scoring import Scores
from ..vectors import FromVectors, Group, Vectors, chosen


class Craig(FromVectors):
    """Facility location on d_max - d_ij, d = |G_i - G_j|, within each class; weights are cluster sizes.

    The weight of a chosen sample is the number of samples whose nearest chosen one it is, itself included;
    they add up to n_c. (DeepCore's are one too many.)
    """

    matrices: ClassVar[int] = 2
    weighted: ClassVar[bool] = True

    fraction: Fraction = option(0.3, "Fraction F of every class that is hidden.", "fraction")
    gradient: Literal["full", "bias"] = option(
        "full",
        "Gradient of the classifier's weights and bias, as DeepCore; or bias alone, r, as the authors.",
    )
    metric: Literal["l2", "squared"] = option("l2", "Distance; squared as in cords.")

    @property
    def nests(self) -> bool:
        """No: weights follow the fraction."""
        return False

    def choose(self, group: Group) -> Scores:
        """Choose n_kept of the class."""
        found = match_clusters(group.rows, group.n_kept, self.gradient, self.metric)
        place = chosen(found.order, group.n)
        weight = np.bincount(found.nearest[found.nearest >= 0], minlength=group.n).astype(np.float64)
        return Scores(np.where(place >= 0, weight, 0.0), place, weight)


def match_clusters(
    rows: Vectors, n_picks: int, gradient: Variant = "full", metric: Literal["l2", "squared"] = "l2"
) -> Covering:
    """Return the greedy medoids of a class and their clusters; gains are relative to the largest distance."""
    distance = distances(rows, gradient)
    if metric == "l2":
        np.sqrt(distance, out=distance)
    largest = float(distance.max(initial=0)) or 1.0
    np.subtract(largest, distance, out=distance)
    distance /= largest
    return cover_greedily(quantise(distance, len(rows)), n_picks)
