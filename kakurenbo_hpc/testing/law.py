"""`LawBroken`, the error of a law that does not hold, and bitwise comparison of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np


class LawBroken(AssertionError):
    """A law does not hold. The message names the law, what was seen, and what to do."""


def require(holds: Any, law: str, seen: str) -> None:
    """Raise LawBroken unless the law holds."""
    if not holds:
        raise LawBroken(f"{law}: {seen}")


def equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two arrays are of one dtype and shape and hold the same values; NaN equals NaN."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"))
