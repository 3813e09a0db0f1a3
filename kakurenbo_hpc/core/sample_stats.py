"""Per-sample results of forward passes, on their way home to the ledger."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class SampleStats:
    """What forward passes found out, one entry a pass: arrays of equal length k, in any order, of any samples.

    ``position`` (k,) int64 is the pass's place in the epoch's global order, so later steps have larger ones; of several
    notes of one id the latest wins. ``extra`` holds further (k,) columns that a method asked for.
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
        """Return the notes with further columns."""
        return dataclasses.replace(self, extra={**self.extra, **columns})
