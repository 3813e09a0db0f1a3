"""GLISTER: Generalization based Data Subset Selection ... (Killamsetty et al., AAAI 2021)."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import model_validator

from ....config.options import Count, Fraction, Positive, option
from ....core.rng import Stream
from ....distributed.comm import Comm
from ..exact import product, sum_products
from ..scoring import Scores, residuals
from ..vectors import ByClassOrAll, Group, Vectors, chosen, in_order

_SMALLEST = 1e-30  # probabilities are clamped here, of which logarithms are taken


class Glister(ByClassOrAll):
    """The samples whose gradients most lower the loss of a validation set after a step.

    gain_x = <G_x, mean over V of the gradients after a step of size eta along the sum of the chosen G>; the
    gradient of V is renewed after every pick (naive, stochastic) or every round (rgreedy). Choices of naive
    nest. DeepCore's code never renews it, which is ``greedy: rgreedy`` with ``rounds`` 1.

    Among all samples, every renewal is a message of C (D + 1) numbers among all ranks, so that only rgreedy
    is affordable; a round takes the samples of largest float32 gain, ties by the smaller id.
    """

    wants: ClassVar[tuple[str, ...]] = ("input", "residual", "probability")

    fraction: Fraction = option(
        0.3, "Fraction F of every class, or of all, that is hidden; unless greedy is naive.", "fraction"
    )
    greedy: Literal["naive", "stochastic", "rgreedy"] = option(
        "naive",
        "One pick at a time; of int(n / k ln 100) random candidates each; or several picks a round.",
    )
    rounds: Count = option(15, "Rounds of rgreedy.")
    eta: Positive = option(0.1, "Size of the step.")
    gradient: Literal["full", "bias"] = option("full", "Gradient of the classifier, or of its bias alone.")
    target: Literal["train", "validation"] = option(
        "train",
        "V: the samples among which it chooses, as DeepCore; or those of the class, or all, that "
        "data.holdout holds out.",
    )

    @property
    def nests(self) -> bool:
        """Only one pick at a time does."""
        return self.greedy == "naive"

    def choose(self, group: Group) -> Scores:
        """Choose n_kept of the class or of all samples, or order all of the class."""
        judged = group.rows if group.validation is None else group.validation
        if not self.by_class:
            return self._choose_in_rounds(group, judged)
        n_picks = group.n if self.nests else group.n_kept
        gains = Gains(group.rows, judged, self.eta, with_input=self.gradient == "full")
        order: list[int] = []
        free = np.ones(group.n, bool)
        for first, last in self._turns(n_picks):
            candidates = free
            if self.greedy == "stochastic":
                candidates = free & self._drawn(group.rows.id, free, n_picks, first, group.rng)
            value = np.where(candidates, gains.value(), -np.inf)
            picks = np.argsort(-value, kind="stable")[: last - first]
            free[picks] = False
            order += picks.tolist()
            gains.step(picks)
        place = chosen(np.array(order, np.int64), group.n)
        return in_order(place, group.n) if self.nests else Scores((place >= 0).astype(np.float64), place)

    def _choose_in_rounds(self, group: Group, judged: Vectors) -> Scores:
        """Choose n_kept of all ranks' rows; places are numbers of rounds."""
        gains = GainsOfAll(group.rows, judged, self.eta, self.gradient == "full", group.comm)
        place = np.full(len(group.rows), -1, np.int64)
        for number, (first, last) in enumerate(self._turns(group.n_kept)):
            value = -gains.value().astype(np.float32)
            picked = group.everyone.first(value, last - first, group.rows.id, among=place < 0)
            place[picked] = number
            gains.step(np.flatnonzero(picked))
        return Scores((place >= 0).astype(np.float64), place)

    def _turns(self, n_picks: int) -> list[tuple[int, int]]:
        """Return the picks, from and to, of each turn."""
        n = min(self.rounds, n_picks) if self.greedy == "rgreedy" else n_picks
        return [(i * n_picks // n, (i + 1) * n_picks // n) for i in range(n)]

    def _drawn(self, ids: np.ndarray, free: np.ndarray, k: int, number: int, rng: Stream) -> np.ndarray:
        """Mark the random candidates of a pick, (n,) bool."""
        draw = np.where(free, rng.uniform(ids, "glister", copy=number), np.inf)
        marked = np.zeros(len(ids), bool)
        marked[np.argsort(draw, kind="stable")[: max(1, int(len(ids) / k * np.log(100)))]] = True
        return marked

    @model_validator(mode="after")
    def _few_renewals(self) -> "Glister":
        if not self.class_balance and self.greedy != "rgreedy":
            raise ValueError(
                f"class_balance is false, but greedy is {self.greedy}, which renews a gradient of all ranks "
                "after every pick; set greedy to rgreedy, or class_balance to true"
            )
        return self


class Gains:
    """The gain of each row, by logits of the validation rows that are moved by a step along each pick."""

    def __init__(self, rows: Vectors, judged: Vectors, eta: float, with_input: bool):
        """Begin with no step made."""
        h, self._h = (self._inputs(x, with_input) for x in (rows, judged))
        self._rows_h, self._r, self._eta = h, rows.r.astype(np.float64), eta
        self._logits = np.log(np.maximum(judged.p.astype(np.float64), _SMALLEST))
        self._label, self._n = judged.label, len(judged)

    def _inputs(self, rows: Vectors, with_input: bool) -> np.ndarray:
        h = rows.h.astype(np.float64) if with_input else np.zeros((len(rows), 0))
        return np.hstack([h, np.ones((len(h), 1))])

    def value(self) -> np.ndarray:
        """Return r_x^T M [h_x; 1], (n,), M the mean gradient of the validation rows, C x (D + 1)."""
        p = np.exp(self._logits - self._logits.max(axis=1, keepdims=True, initial=-np.inf))
        r = residuals(p / p.sum(axis=1, keepdims=True), self._label)
        mean = self._sum_products(self._h, r) / max(1, self._n)
        return np.einsum("ic,ic->i", self._apply(self._rows_h, mean), self._r)

    def step(self, picks: np.ndarray) -> None:
        """Move the logits by a step along the gradients of these rows."""
        gradient = self._sum_products(self._rows_h[picks], self._r[picks])
        self._logits -= self._eta * self._apply(self._h, gradient)

    def _sum_products(self, inputs: np.ndarray, r: np.ndarray) -> np.ndarray:
        """Return the sum of [h; 1] r^T, (D + 1, C)."""
        return inputs.T @ r

    def _apply(self, inputs: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """Return [h; 1] times a matrix (D + 1, C), (k, C)."""
        return inputs @ matrix


class GainsOfAll(Gains):
    """The same among the rows of all ranks, in arithmetic that does not depend on how they are split."""

    def __init__(self, rows: Vectors, judged: Vectors, eta: float, with_input: bool, comm: Comm):
        """Begin with no step made. Collective, as all that follows."""
        super().__init__(rows, judged, eta, with_input)
        self._comm = comm
        self._n = int(comm.sum(np.array([len(judged)]))[0])

    def _sum_products(self, inputs: np.ndarray, r: np.ndarray) -> np.ndarray:
        return sum_products(inputs, r, self._comm)

    def _apply(self, inputs: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        return product(inputs[:, :-1], matrix[:-1]) + matrix[-1]
