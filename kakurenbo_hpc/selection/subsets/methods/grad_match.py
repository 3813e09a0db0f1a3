"""GRAD-MATCH: Gradient Matching based Data Subset Selection (Killamsetty et al., ICML 2021), chosen once."""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from ....config.options import Fraction, option
from ....core.rng import Stream
from ..gradients import Variant, gram
from ..matching_pursuit import match_sum
from ..scoring import Scores
from ..vectors import FromVectors, Group, Vectors, chosen


class GradMatch(FromVectors):
    """A weighted subset of each class, by orthogonal matching pursuit of the sum of its gradients.

    Too few may be picked, when nothing is left to match: samples of smallest draw fill up, at the mean weight
    of the picked.
    """

    matrices: ClassVar[int] = 2
    weighted: ClassVar[bool] = True

    fraction: Fraction = option(0.3, "Fraction F of every class that is hidden.", "fraction")
    gradient: Variant = option(
        "own_row", "Gradient: of the class's own row of the classifier, full, or of the bias alone."
    )
    damping: Annotated[float, Field(ge=0)] = option(0.5, "Regularisation lambda of the weights.")
    tolerance: Annotated[float, Field(ge=0)] = option(
        1e-4, "Relative size of the residual at which picking ends."
    )

    @property
    def nests(self) -> bool:
        """No: weights follow the fraction."""
        return False

    def choose(self, group: Group) -> Scores:
        """Choose n_kept of the class."""
        place, weight = match_class(
            group.rows, group.n_kept, group.rng, self.gradient, self.damping, self.tolerance
        )
        return Scores(weight.copy(), place, weight)


def match_class(
    rows: Vectors, n_picks: int, rng: Stream, gradient: Variant, damping: float, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return places, (n,) int64, and weights, (n,) float64, of a class.

    Places of samples that fill up come after those of the picked.
    """
    found = match_sum(gram(rows, gradient), n_picks, damping, tolerance)
    draw = rng.uniform(rows.id, "grad_match")
    draw[found.order] = np.inf
    fill = np.lexsort((rows.id, draw))[: n_picks - len(found.order)]
    weight = np.zeros(len(rows))
    weight[found.order] = found.weight
    weight[fill] = found.weight.mean() if len(found.weight) else 1.0
    return chosen(np.append(found.order, fill), len(rows)), weight
