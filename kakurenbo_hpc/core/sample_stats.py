"""Sample statistics: per-sample results of forward passes, before they reach the ledger."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class SampleStats:
    """Results of forward passes, one entry per pass: arrays of length k, in any order, of any samples.

    Attributes:
        id: (k,) int64.
        loss: (k,) float32.
        correct: (k,) bool.
        confidence: (k,) float32.
        position: (k,) int64, place in the epoch's global order; of several entries of one id the one of
            largest position wins.
        extra: further columns that the method declares: (k,), or (k, J) of width J.
    """

    id: np.ndarray
    loss: np.ndarray
    correct: np.ndarray
    confidence: np.ndarray
    position: np.ndarray
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.id)

    def with_extra(self, **columns: np.ndarray) -> SampleStats:
        """Return the statistics with further columns."""
        return dataclasses.replace(self, extra={**self.extra, **columns})
