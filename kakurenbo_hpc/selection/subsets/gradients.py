"""Inner products and similarities of the classifier's gradients, from h and r without the gradients."""

from __future__ import annotations

from typing import Literal

import numpy as np

from .exact import quantise
from .vectors import Vectors

Variant = Literal["full", "bias", "own_row"]

_ROWS = 512  # at a time, so that only one matrix of all pairs is held


def gram(rows: Vectors, variant: Variant = "full") -> np.ndarray:
    """Return <G_i, G_j> of all pairs, (k, k) float64.

    Args:
        rows: of one class.
        variant: full, (r_i . r_j)(h_i . h_j + 1); bias, r_i . r_j; own_row, the gradient of the class's own
            row of weights, r_iy r_jy (h_i . h_j + 1).
    """
    h, r = rows.h.astype(np.float64), rows.r.astype(np.float64)
    if variant == "own_row":
        r = r[np.arange(len(r)), rows.label][:, None]
    if variant == "bias":
        return r @ r.T
    found = h @ h.T
    found += 1
    for start in range(0, len(h), _ROWS):
        found[start : start + _ROWS] *= r[start : start + _ROWS] @ r.T
    return found


def similarities(rows: Vectors) -> np.ndarray:
    """Return .5 + .5 cos(G_i, G_j) of all pairs, (k, k) float64, on a grid on which sums are exact.

    The cosine with a zero gradient is 0, and that of a sample with itself is 1.
    """
    found, length = gram(rows), rows.lengths
    inverse = np.divide(0.5, length, out=np.zeros_like(length), where=length > 0)
    found *= inverse[:, None]
    found /= np.where(length > 0, length, 1)
    found += 0.5
    np.fill_diagonal(found, 1.0)
    return quantise(np.clip(found, 0, 1, out=found), len(rows))


def distances(rows: Vectors, variant: Variant = "full") -> np.ndarray:
    """Return |G_i - G_j|^2 of all pairs, (k, k) float64, 0 on the diagonal."""
    found = gram(rows, variant)
    square = np.diag(found).copy()
    found *= -2
    found += square[:, None]
    found += square
    np.maximum(found, 0, out=found)
    np.fill_diagonal(found, 0)
    return found
