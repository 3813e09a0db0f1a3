"""GLISTER: Generalization based Data Subset Selection ... (Killamsetty et al., AAAI 2021)."""

from typing import ClassVar, Literal

import numpy as np

from ....config.options import Count, Fraction, Positive, option
from ....core.rng import Stream
from ..scoring import Scores, residuals
from ..vectors import FromVectors, Group, Vectors, chosen, in_order

_SMALLEST = 1e-30  # probabilities are clamped here, of which logarithms are taken


class Glister(FromVectors):
    """Within each class, the samples whose gradients most lower the loss of a validation set after a step.

    gain_x = <G_x, mean over V of the gradients after a step of size eta along the sum of the chosen G>; the
    gradient of V is renewed after every pick (naive, stochastic) or every round (rgreedy). Choices of naive
    nest. DeepCore's code never renews it, which is ``greedy: rgreedy`` with ``rounds`` 1.
    """

    wants: ClassVar[tuple[str, ...]] = ("input", "residual", "probability")

    fraction: Fraction = option(
        0.3, "Fraction F of every class that is hidden, unless greedy is naive.", "fraction"
    )
    greedy: Literal["naive", "stochastic", "rgreedy"] = option(
        "naive",
        "One pick at a time; of int(n / k ln 100) random candidates each; or several picks a round.",
    )
    rounds: Count = option(15, "Rounds of rgreedy.")
    eta: Positive = option(0.1, "Size of the step.")
    gradient: Literal["full", "bias"] = option("full", "Gradient of the classifier, or of its bias alone.")
    target: Literal["train", "validation"] = option(
        "train", "V: the class itself, as DeepCore; or its samples among those that data.holdout holds out."
    )

    @property
    def nests(self) -> bool:
        """Only one pick at a time does."""
        return self.greedy == "naive"

    def choose(self, group: Group) -> Scores:
        """Choose n_kept of the class, or order all of it."""
        judged = group.rows if group.validation is None else group.validation
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


class Gains:
    """The gain of each row, by logits of the validation rows that are moved by a step along each pick."""

    def __init__(self, rows: Vectors, judged: Vectors, eta: float, with_input: bool):
        """Begin with no step made."""
        h, self._h = (self._inputs(x, with_input) for x in (rows, judged))
        self._rows_h, self._r, self._eta = h, rows.r.astype(np.float64), eta
        self._logits = np.log(np.maximum(judged.p.astype(np.float64), _SMALLEST))
        self._label = judged.label

    def _inputs(self, rows: Vectors, with_input: bool) -> np.ndarray:
        h = rows.h.astype(np.float64) if with_input else np.zeros((len(rows), 0))
        return np.hstack([h, np.ones((len(h), 1))])

    def value(self) -> np.ndarray:
        """Return r_x^T M [h_x; 1], (n,), M the mean gradient of the validation rows, C x (D + 1)."""
        p = np.exp(self._logits - self._logits.max(axis=1, keepdims=True, initial=-np.inf))
        r = residuals(p / p.sum(axis=1, keepdims=True), self._label)
        mean = self._h.T @ r / max(1, len(r))
        return np.einsum("ic,ic->i", self._rows_h @ mean, self._r)

    def step(self, picks: np.ndarray) -> None:
        """Move the logits by a step along the gradients of these rows."""
        gradient = self._rows_h[picks].T @ self._r[picks]
        self._logits -= self._eta * (self._h @ gradient)
