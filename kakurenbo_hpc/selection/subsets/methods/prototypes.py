"""Beyond Neural Scaling Laws: Beating Power Law Scaling via Data Pruning (Sorscher et al., NeurIPS 2022)."""

from typing import ClassVar

import numpy as np

from ....config.options import Count, option
from ..exact import product, round_all
from ..scoring import Places, Scores
from ..vectors import FromVectors, Group

_MOST_ITERATIONS = 100


class Prototypes(FromVectors):
    """1 - cos(h, its k-means center), over all samples, without labels. Keep the highest.

    The paper's network is trained without labels; here it is the job's own. Our choices: h is scaled to
    length 1 and rounded to 15 bits; the first centers are the samples of smallest draw; of equally near
    centers the first counts; an empty cluster keeps its center.
    """

    wants: ClassVar[tuple[str, ...]] = ("input",)
    among_all: ClassVar[bool] = True

    clusters: Count = option(10, "Number of centers; the paper has as many as there are classes.")

    @property
    def places(self) -> Places:
        """None: scores serve every fraction."""
        return "none"

    def choose(self, group: Group) -> Scores:
        """Return the scores of this rank's rows."""
        h = group.rows.h.astype(np.float64)
        length = np.sqrt(np.square(h).sum(axis=1, keepdims=True))
        unit = round_all(np.divide(h, length, out=np.zeros_like(h), where=length > 0), 0.75)
        centers = self._first(unit, group)
        nearest = np.full(len(unit), -1)
        for _ in range(_MOST_ITERATIONS):
            distance = np.square(centers).sum(axis=1) - 2 * product(unit, centers.T)
            now = distance.argmin(axis=1)
            if not group.everyone.count(now != nearest)[0]:
                break
            nearest = now
            centers = _means(unit, nearest, centers, group)
        size = np.sqrt(np.square(centers).sum(axis=1)) * np.sqrt(np.square(unit).sum(axis=1))[:, None]
        cosine = product(unit, centers.T) / np.where(size > 0, size, 1)
        return Scores(1 - cosine[np.arange(len(unit)), nearest])

    def _first(self, unit: np.ndarray, group: Group) -> np.ndarray:
        """Return the rows of smallest draws, in order of ids, on every rank."""
        draw = group.rng.uniform(group.rows.id, "prototypes").astype(np.float32)
        first = group.everyone.first(draw, min(self.clusters, group.n), group.rows.id)
        parts = group.comm.gather((group.rows.id[first], unit[first]))
        ids, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
        return rows[np.argsort(ids)]


def _means(unit: np.ndarray, nearest: np.ndarray, centers: np.ndarray, group: Group) -> np.ndarray:
    """Return the mean of each cluster, (k, D); sums of entries in units of 2**-15 are exact."""
    member = nearest[:, None] == np.arange(len(centers))
    sums, n = group.comm.sum(member.T.astype(np.float64) @ unit), group.comm.sum(member.sum(axis=0))
    return np.where(n[:, None] > 0, sums / np.maximum(n, 1)[:, None], centers)
