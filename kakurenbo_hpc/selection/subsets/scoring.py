"""Scoring methods: the interface `ScoringMethod`, and what three kinds of methods look at."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ...core.ledger import Ledger
from ...core.plan import Epoch
from ..methods.everything import Everything

if TYPE_CHECKING:
    from ..global_stats import GlobalStats

# What places are counted in: nothing (there are only scores), the samples of one class, or all samples.
Places = Literal["none", "class", "all"]


@dataclass(frozen=True)
class Scores:
    """What a scoring method says of S samples.

    Attributes:
        score: (S,) float64; NaN for a sample that has none.
        place: (S,) int64, from 0 in the order in which samples are chosen, -1 for one that is not; None where
            the score alone says who stays.
        weight: (S,) float64, of the samples' losses; None for 1.
        filled: (S,) bool, whether a sample that stays was only drawn to fill up; None where none ever is.
    """

    score: np.ndarray
    place: np.ndarray | None = None
    weight: np.ndarray | None = None
    filled: np.ndarray | None = None


class ScoringMethod(Everything):
    """A method of `kakurenbo score`: trains everything for some epochs, then judges every sample.

    Its fields are its options. A method is one of three kinds, by what it looks at: ``FromTraining``,
    ``FromOutputs`` or ``FromVectors`` (in ``vectors.py``).

    Attributes:
        default_epochs: epochs of training before samples are scored, as in the paper.
        default_repeats: runs with other seeds whose scores are averaged, as in the paper.
        averages: whether scores of several runs may be averaged.
        weighted: whether it gives weights.
        fills: whether it draws samples where it finds too few, and says which.
        block: samples of one forward pass of the scoring passes, whatever the number of ranks.
    """

    default_epochs: ClassVar[int] = 10
    default_repeats: ClassVar[int] = 1
    averages: ClassVar[bool] = True
    weighted: ClassVar[bool] = False
    fills: ClassVar[bool] = False
    block: ClassVar[int] = 128

    @property
    def places(self) -> Places:
        """What its places are counted in."""
        return "none"

    @property
    def nests(self) -> bool:
        """Whether one file serves every fraction; otherwise it serves its option ``fraction`` alone."""
        return True

    @property
    def fewest_epochs(self) -> int:
        """Fewest epochs of training that it can do with."""
        return 0


class FromTraining(ScoringMethod):
    """A method that looks at ledger columns, which it renews after every epoch."""

    @abstractmethod
    def of_training(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Scores:
        """Return the scores of this rank's rows.

        Args:
            epoch: the one after the last; its number is that of the epochs trained.
            ledger: the rows of this rank.
            everyone: questions to the rows of all ranks.
        """


class FromOutputs(ScoringMethod):
    """A method that judges each sample by the trained network's outputs for it, in eval mode.

    Attributes:
        lowest_epoch: scores are those of the epoch in which their mean was lowest.
    """

    lowest_epoch: ClassVar[bool] = False

    @property
    def backward(self) -> int:
        """Backward passes of a sample that its outputs cost, for the account."""
        return int("gradient_norm" in self.outputs)

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """What it looks at: probability, input (of the classifier), loss, gradient_norm, deepfool_C."""

    @abstractmethod
    def of_outputs(self, outputs: Mapping[str, np.ndarray], label: np.ndarray) -> np.ndarray:
        """Return the scores of k samples, (k,) floats, each from its own outputs alone.

        Args:
            outputs: probability (k, C) and input (k, D), loss (k,), gradient_norm (k,), float32.
            label: (k,) int64.
        """

    def is_scored(self, epoch: Epoch, ids: np.ndarray) -> np.ndarray:
        """Return which of these samples are scored, (k,) bool; the others' scores are NaN."""
        return np.ones(len(ids), bool)


def residuals(probability: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return r = p - onehot(y), (k, C); r_y is minus the sum of the others, as p_y - 1 rounds to 0."""
    rows, r = np.arange(len(label)), probability.copy()
    r[rows, label] = 0
    r[rows, label] = -r.sum(axis=1)
    return r
