"""Vectors of samples, h and r = p - onehot(y), and the interface of methods that choose by them."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from ...config.options import Positive, option
from ...core.rng import Stream
from ...distributed.comm import Comm
from ..global_stats import GlobalStats
from .exact import squares
from .scoring import Places, Scores, ScoringMethod


@dataclass(frozen=True)
class Vectors:
    """Rows of samples, sorted by id. The gradient of the classifier is G_i = r_i [h_i; 1]^T, never formed.

    Attributes:
        id: (k,) int64.
        label: (k,) int64.
        h: (k, D), the classifier's input, by ``exact.round_rows``; (k, 0) if not asked for.
        r: (k, C), p - onehot(y), by ``exact.round_rows``; (k, 0) if not asked for.
        p: (k, C) float32, class probabilities as they are; (k, 0) if not asked for.
    """

    id: np.ndarray
    label: np.ndarray
    h: np.ndarray
    r: np.ndarray
    p: np.ndarray

    def __len__(self) -> int:
        return len(self.id)

    def take(self, rows: np.ndarray) -> Vectors:
        """Return some rows: (k,) bool, or indices."""
        return Vectors(*(getattr(self, one.name)[rows] for one in dataclasses.fields(self)))

    @property
    def is_finite(self) -> np.ndarray:
        """Which rows are finite, (k,) bool."""
        return np.all([np.isfinite(x.sum(axis=1)) for x in (self.h, self.r, self.p)], axis=0)

    @cached_property
    def lengths(self) -> np.ndarray:
        """|G_i| = |r_i| sqrt(|h_i|^2 + 1), (k,) float64."""
        return np.sqrt(squares(self.r) * (squares(self.h) + 1))


@dataclass(frozen=True)
class Group:
    """Samples among which a method chooses: those of a class on one rank, or all samples on all ranks.

    Attributes:
        rows: of this rank, all of them finite.
        n: samples of the group, over all ranks of ``comm``.
        n_kept: how many to choose; an order goes on to the end.
        rng: draws that hold for the whole run.
        comm: the ranks that have rows of the group; one alone for a class.
        validation: rows that gradients are matched or judged against; ``rows`` if there are no others.
    """

    rows: Vectors
    n: int
    n_kept: int
    rng: Stream
    comm: Comm
    validation: Vectors | None = None

    @property
    def everyone(self) -> GlobalStats:
        """Questions to all rows of the group."""
        return GlobalStats(self.comm)


class FromVectors(ScoringMethod):
    """A method that chooses by vectors, within classes or among all samples.

    Attributes:
        wants: of input, residual and probability, what it looks at.
        matrices: matrices of n_c x n_c float64 that it holds for a class of n_c samples.
        among_all: whether it chooses among all samples, not within classes.
    """

    averages: ClassVar[bool] = False
    wants: ClassVar[tuple[str, ...]] = ("input", "residual")
    matrices: ClassVar[int] = 0
    among_all: ClassVar[bool] = False

    memory_limit: Positive = option(
        8.0,
        "Most memory of a rank for vectors and matrices; classes are gone through in rounds that fit.",
        "GiB",
    )

    @property
    def by_class(self) -> bool:
        """Whether it chooses within classes."""
        return not self.among_all

    @property
    def together(self) -> int:
        """How many consecutive ids, from a multiple of it, have their rows on one rank, if not by class."""
        return 1

    @property
    def places(self) -> Places:
        """What it chooses among."""
        return "class" if self.by_class else "all"

    @abstractmethod
    def choose(self, group: Group) -> Scores:
        """Return scores, and places if there are any, of this rank's rows. Collective over ``group.comm``.

        They depend neither on how rows are split over ranks nor on their order.
        """

    def choose_all(self, group: Group) -> Scores:
        """Choose among the finite rows; one that is not finite has the score NaN, and comes last, by id."""
        good = group.rows.is_finite
        n_good, n_bad = group.everyone.count(good, ~good)
        finite = dataclasses.replace(
            group, rows=group.rows.take(good), n=n_good, n_kept=min(group.n_kept, n_good)
        )
        found = self.choose(finite)
        if not n_bad:
            return found

        def with_bad(column: np.ndarray | None, value: float) -> np.ndarray | None:
            if column is None:
                return None
            whole = np.full(len(good), value, column.dtype)
            whole[good] = column
            return whole

        score, weight, filled = (
            with_bad(column, value)
            for column, value in ((found.score, np.nan), (found.weight, 1), (found.filled, False))
        )
        place = with_bad(found.place, -1)
        assert score is not None
        if place is None:
            return Scores(score, None, weight, filled)
        last = n_good + np.cumsum(~good) - 1 + group.comm.exscan(np.array([np.count_nonzero(~good)]))[0]
        n_places = group.n if self.nests else group.n_kept
        place[~good] = np.where(last < n_places, last, -1)[~good]
        return Scores(score, place, weight, filled)


class ByClassOrAll(FromVectors):
    """A method whose option says whether it chooses within classes or among all samples."""

    class_balance: bool = option(True, "Choose within classes, or among all samples.")

    @property
    def by_class(self) -> bool:
        """Whether it chooses within classes."""
        return self.class_balance


def in_order(place: np.ndarray, n: int) -> Scores:
    """Return the scores of an order: n - place, so that the highest come first."""
    return Scores((n - place).astype(np.float64), place)


def chosen(order: np.ndarray, n: int) -> np.ndarray:
    """Return the places, (n,) int64, of n rows of which ``order`` (k,) names some; -1 for the others."""
    place = np.full(n, -1, np.int64)
    place[order] = np.arange(len(order))
    return place
