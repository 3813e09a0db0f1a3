"""Exact arithmetic on vectors: rounded so that sums of products are the same in any order and split.

A row is rounded once to 15 significant bits of its largest entry. A product of two entries then has 30 bits,
and a dot product of up to 2**23 terms is an integer below 2**53 times a power of two, which float64 holds
exactly, whatever order a BLAS library adds it in.
"""

from __future__ import annotations

import numpy as np

from ...distributed.comm import Comm

BITS = 15
_PIECES = 3  # of 15 bits each: as precise as float64 but for 8 bits


def round_rows(x: np.ndarray) -> np.ndarray:
    """Return (k, D) rows, rounded to 15 significant bits of each row's largest entry, in their own dtype.

    A row that is not finite becomes NaN. The largest change is 2**-16 of the largest entry.
    """
    largest = np.abs(x).max(axis=1, initial=0, keepdims=True).astype(np.float64)
    with np.errstate(invalid="ignore"):
        rounded = _round_to(x, largest)
    return np.where(np.isfinite(largest), rounded, np.nan).astype(x.dtype)


def round_all(x: np.ndarray, largest: float) -> np.ndarray:
    """Return float64 entries rounded to 2**-15 of one power of two above ``largest``.

    Sums over up to 2**23 rows of products of two such entries are exact.
    """
    return _round_to(x, np.array(largest, np.float64))


def product(x: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return x @ matrix, (k, E) float64, in which no row depends on other rows or on blocking.

    Args:
        x: (k, D), rows of ``round_rows``.
        matrix: (D, E) float64, the same on every rank; it is cut into three pieces of 15 bits.
    """
    x, rest, total = x.astype(np.float64), matrix, np.zeros((len(x), matrix.shape[1]))
    for _ in range(_PIECES):
        piece = _round_to(rest, np.abs(rest).max(axis=0, initial=0))
        total += x @ piece
        rest = rest - piece
    return total


def sum_products(x: np.ndarray, y: np.ndarray, comm: Comm) -> np.ndarray:
    """Return sum_i x_i y_i^T over the rows of all ranks, (D, E) float64, the same however they are split.

    Both are cut into pieces of 15 bits of the largest entry of all ranks. The products of two pieces add
    exactly, over up to 2**23 rows; those below 2**-45 of the largest are left out. Two allreduces.

    Args:
        x: (k, D), finite.
        y: (k, E), finite.
        comm: the ranks that have rows.
    """
    largest = comm.max(np.array([np.abs(one).max(initial=0) for one in (x, y)], np.float64))
    pieces = [_pieces(one, size) for one, size in zip((x, y), largest, strict=True)]
    pairs = [(i, j) for i in range(_PIECES) for j in range(_PIECES - i)]
    sums = comm.sum(np.stack([pieces[0][i].T @ pieces[1][j] for i, j in pairs]))
    return sums.sum(axis=0)


def _pieces(x: np.ndarray, largest: float) -> list[np.ndarray]:
    """Return float64 arrays whose sum is nearly x: each the rest of those before, rounded to 15 bits."""
    pieces, rest = [], x.astype(np.float64)
    for number in range(_PIECES):
        pieces.append(_round_to(rest, np.array(np.ldexp(largest, -number * BITS))))
        rest = rest - pieces[-1]
    return pieces


def quantise(x: np.ndarray, n: int) -> np.ndarray:
    """Round entries of [0, 1] in place to a grid on which sums of n of them are exact in any order."""
    scale = 2.0 ** (52 - max(1, n).bit_length())
    x *= scale
    np.rint(x, out=x)
    x /= scale
    return x


def squares(x: np.ndarray) -> np.ndarray:
    """Return |x_i|^2, (k,) float64, of rows of ``round_rows``."""
    x = x.astype(np.float64)
    return np.einsum("ij,ij->i", x, x)


def _round_to(x: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Return x in float64, rounded to 2**-15 of the power of two above ``largest``."""
    exponent = np.frexp(np.where(np.isfinite(largest), largest, 0))[1]
    return np.ldexp(np.rint(np.ldexp(x.astype(np.float64), BITS - exponent)), exponent - BITS)
