"""GRAD-MATCH: Gradient Matching based Data Subset Selection (Killamsetty et al., ICML 2021), chosen once."""

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from ....config.options import Count, Fraction, option
from ....core.rng import Stream
from ..batches import Batches, gram_of_all
from ..gradients import Variant, gram
from ..matching_pursuit import Match, match_sum
from ..scoring import Scores
from ..vectors import FromVectors, Group, Vectors, chosen


class GradMatch(FromVectors):
    """A weighted subset of each class, by orthogonal matching pursuit of the sum of its gradients.

    Or of all batches of consecutive ids (PB), whose atoms are the batches' mean gradients: samples have the
    weight of their batch. The paper's lambda for it is 0, its gradient full. The target is the sum over the
    class, or over all batches, of training or of held-out samples.

    Too few may be picked, when nothing is left to match: samples, or batches, of smallest draw fill up, at
    the mean weight of the picked. The last batch gives only as many samples as are missing.
    """

    matrices: ClassVar[int] = 2
    weighted: ClassVar[bool] = True
    fills: ClassVar[bool] = True

    fraction: Fraction = option(0.3, "Fraction F of every class, or of all, that is hidden.", "fraction")
    per: Literal["class", "batch"] = option(
        "class", "Choose samples within classes, or among batches of consecutive ids (PB)."
    )
    batch: Count = option(128, "Samples of a batch, for per: batch.", "samples")
    gradient: Variant = option(
        "own_row", "Gradient: of the class's own row of the classifier, full, or of the bias alone."
    )
    damping: Annotated[float, Field(ge=0)] = option(0.5, "Regularisation lambda of the weights.")
    tolerance: Annotated[float, Field(ge=0)] = option(
        1e-4, "Relative size of the residual at which picking ends."
    )
    target: Literal["train", "validation"] = option(
        "train",
        "What is matched: gradients of the training samples, or of those that data.holdout holds out.",
    )

    @property
    def nests(self) -> bool:
        """No: weights follow the fraction."""
        return False

    @property
    def by_class(self) -> bool:
        """Whether it chooses within classes."""
        return self.per == "class"

    @property
    def together(self) -> int:
        """A batch has its rows on one rank."""
        return 1 if self.by_class else self.batch

    def choose(self, group: Group) -> Scores:
        """Choose n_kept of the class, or of all samples."""
        return self._choose_samples(group) if self.by_class else self._choose_batches(group)

    def _choose_samples(self, group: Group) -> Scores:
        rows, n_picks = group.rows, group.n_kept
        found = match_sum(
            gram(rows, self.gradient), n_picks, self.damping, self.tolerance, *self._target_of(group)
        )
        order, weight, filled = fill_up(found, rows.id, group.rng)
        kept = order[:n_picks]
        place, stays = chosen(kept, len(rows)), np.zeros(len(rows), bool)
        stays[kept] = True
        weight = np.where(stays, weight, 0)
        return Scores(weight.copy(), place, weight, filled & stays)

    def _target_of(self, group: Group) -> tuple[np.ndarray, float] | tuple[None, None]:
        """Return the target's inner products with each atom, and itself; None for the sum of the atoms."""
        judged, n = group.validation, len(group.rows)
        if judged is None:
            return None, None
        both = Vectors(
            *(np.concatenate([getattr(x, name) for x in (group.rows, judged)]) for name in _COLUMNS)
        )
        products = gram(both, self.gradient)
        return products[:n, n:].sum(axis=1), float(products[n:, n:].sum())

    def _choose_batches(self, group: Group) -> Scores:
        rows, n_kept = group.rows, group.n_kept
        own = Batches.of(rows.id, self.batch)
        number, size, first = self._share(own, group)
        found = self._match_batches(own, group, min(-(-n_kept // self.batch), len(number)))
        order, weight, filled = fill_up(found, number * self.batch, group.rng)
        before = np.zeros(len(number), np.int64)  # places are given batch by batch
        before[order] = np.cumsum(size[order]) - size[order]
        of_row = first + own.of_row
        in_batch = np.arange(len(rows)) - np.repeat(np.cumsum(own.size) - own.size, own.size)
        place = before[of_row] + in_batch
        stays = place < n_kept
        of_sample = np.where(stays, weight[of_row], 0)
        return Scores(of_sample.copy(), np.where(stays, place, -1), of_sample, filled[of_row] & stays)

    def _share(self, own: Batches, group: Group) -> tuple[np.ndarray, np.ndarray, int]:
        """Return number and size of the batches of all ranks, in order, and where this rank's begin."""
        parts = group.comm.gather((own.number, own.size))
        number, size = (np.concatenate(column) for column in zip(*parts, strict=True))
        return number, size, sum(len(part[0]) for part in parts[: group.comm.rank])

    def _match_batches(self, own: Batches, group: Group, n_picks: int) -> Match:
        """Match the batches of all ranks; the same on every rank."""
        comm, with_input = group.comm, self.gradient == "full"
        vectors, n_own = own.mean_gradients(group.rows, with_input), len(own.number)
        if group.validation is not None:
            judged = Batches.of(group.validation.id, self.batch)
            vectors = np.concatenate([vectors, judged.mean_gradients(group.validation, with_input)])
        is_atom = np.concatenate(comm.gather(np.arange(len(vectors)) < n_own))
        products = gram_of_all(vectors, comm)
        target = is_atom if group.validation is None else ~is_atom
        return comm.broadcast(
            match_sum(
                products[np.ix_(is_atom, is_atom)],
                n_picks,
                self.damping,
                self.tolerance,
                products[np.ix_(is_atom, target)].sum(axis=1),
                float(products[np.ix_(target, target)].sum()),
            )
        )

    @model_validator(mode="after")
    def _gradient_of_batches(self) -> "GradMatch":
        if self.per == "batch" and self.gradient == "own_row":
            raise ValueError(
                "gradient is own_row, which samples of one class have, but per is batch; set gradient to "
                "full or bias"
            )
        return self


_COLUMNS = ("id", "label", "h", "r", "p")


def fill_up(found: Match, ids: np.ndarray, rng: Stream) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all atoms, the picked first and then by draw, their weights, and which were not picked.

    Args:
        found: the picked.
        ids: (n,) int64, which draws are keyed by.
        rng: of the draws.

    Returns:
        (n,) int64, the order; by atom, (n,) float64 and (n,) bool.
    """
    filled = np.ones(len(ids), bool)
    filled[found.order] = False
    draw = rng.uniform(ids, "grad_match")
    rest = np.flatnonzero(filled)
    rest = rest[np.lexsort((ids[rest], draw[rest]))]
    weight = np.full(len(ids), found.weight.mean() if len(found.weight) else 1.0)
    weight[found.order] = found.weight
    return np.append(found.order, rest), weight, filled
