"""Orthogonal matching pursuit with weights that are not negative, on a Gram matrix."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular

_PROJECTION, _PIVOT = 1e-9, 1e-10  # relative sizes below which nothing is left to gain


class Match(NamedTuple):
    """A weighted subset whose sum is near the target.

    Attributes:
        order: (k,) int64, the atoms, in the order of picking.
        weight: (k,) float64, not negative.
        residual: |target - sum w G|^2.
    """

    order: np.ndarray
    weight: np.ndarray
    residual: float


def match_sum(
    gram: np.ndarray,
    n_picks: int,
    damping: float = 0.0,
    tolerance: float = 1e-4,
    target: np.ndarray | None = None,
    target_square: float | None = None,
) -> Match:
    """Pick atoms whose weighted sum is near the target.

    The next atom is that of largest projection G_x . residual. Then (Gram_SS + lambda I) w = b_S is solved
    anew, and while a weight is negative the most negative atom is dropped. An atom in S is no candidate. It
    ends after ``n_picks`` turns, at |residual| < tolerance |target|, or where the largest projection or the
    new pivot is nothing but rounding.

    Args:
        gram: (n, n) float64, inner products of the atoms.
        n_picks: turns.
        damping: lambda; the first pick alone has none.
        tolerance: relative size of the residual.
        target: (n,) float64, inner products of the target with each atom; the sum of all atoms if not given.
        target_square: |target|^2, with ``target``.
    """
    b = gram.sum(axis=1) if target is None else target
    square = float(b.sum()) if target_square is None else target_square
    length, size = np.sqrt(np.maximum(np.diag(gram), 0)), float(np.sqrt(max(square, 0)))
    state = _Solver(gram, b, damping)
    residual = square
    for turn in range(n_picks):
        if residual < (tolerance * size) ** 2 or not np.any(state.free):
            break
        projection = np.where(state.free, state.projections(), -np.inf)
        pick = int(np.argmax(projection))
        if projection[pick] <= _PROJECTION * length[pick] * size or not state.add(pick):
            break
        if turn == 0:
            state.weight = np.array([b[pick] / gram[pick, pick]])
        else:
            state.solve()
            while len(state.weight) and state.weight.min() < 0:
                state.drop(int(np.argmin(state.weight)))
                state.solve()
        residual = square - 2 * state.weight @ b[state.atoms] + state.weight @ state.apply_gram()
    return Match(np.array(state.atoms, np.int64), state.weight, max(0.0, float(residual)))


class _Solver:
    """The atoms in S, their weights, and the Cholesky factor of Gram_SS + lambda I."""

    def __init__(self, gram: np.ndarray, b: np.ndarray, damping: float):
        self._gram, self._b, self._damping = gram, b, damping
        self._factor = np.zeros((16, 16))
        self._rows = np.zeros((16, len(b)))  # the rows of the Gram of S, contiguous
        self.atoms: list[int] = []
        self.weight = np.zeros(0)
        self.free = np.ones(len(b), bool)

    def projections(self) -> np.ndarray:
        """Return G_x . residual, (n,)."""
        return self._b - self.weight @ self._rows[: len(self.atoms)]

    def apply_gram(self) -> np.ndarray:
        """Return Gram_SS w."""
        return (self.weight @ self._rows[: len(self.atoms)])[self.atoms]

    def add(self, atom: int) -> bool:
        """Put an atom into S; return False where it depends on those in S but for rounding."""
        k = len(self.atoms)
        if k == len(self._factor):
            self._factor = np.pad(self._factor, (0, k))
            self._rows = np.pad(self._rows, ((0, k), (0, 0)))
        column = self._gram[atom]
        diagonal = column[atom] + self._damping
        left = solve_triangular(self._factor[:k, :k], column[self.atoms], lower=True, check_finite=False)
        pivot = diagonal - left @ left
        if pivot <= _PIVOT * diagonal:
            return False
        self._factor[k, :k], self._factor[k, k] = left, np.sqrt(pivot)
        self._rows[k] = column
        self.atoms.append(atom)
        self.free[atom] = False
        return True

    def solve(self) -> None:
        """Solve for the weights of S."""
        k = len(self.atoms)
        factor = self._factor[:k, :k]
        half = solve_triangular(factor, self._b[self.atoms], lower=True, check_finite=False)
        self.weight = solve_triangular(factor, half, lower=True, trans=1, check_finite=False)

    def drop(self, at: int) -> None:
        """Take an atom out of S; a rank-one update adds its column to the factor below."""
        k = len(self.atoms)
        self.free[self.atoms.pop(at)] = True
        self._rows[at : k - 1] = self._rows[at + 1 : k].copy()
        factor = np.delete(self._factor[:k, :k], at, axis=0)
        extra = factor[at:, at].copy()
        factor = np.delete(factor, at, axis=1)
        _update(factor[at:, at:], extra)
        self._factor[: k - 1, : k - 1] = factor


def _update(factor: np.ndarray, x: np.ndarray) -> None:
    """Make the lower triangular ``factor`` that of factor factor^T + x x^T, in place.

    Source: Golub and Van Loan, Matrix Computations, 6.5.4.
    """
    for k in range(len(x)):
        r = np.hypot(factor[k, k], x[k])
        c, s = r / factor[k, k], x[k] / factor[k, k]
        factor[k, k] = r
        factor[k + 1 :, k] = (factor[k + 1 :, k] + s * x[k + 1 :]) / c
        x[k + 1 :] = c * x[k + 1 :] - s * factor[k + 1 :, k]
