"""What a rank puts through the network at once: the turn that says which samples, and the batch that brings them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Turn:
    """One local batch, before it is read.

    id, position: (k,) int64. copy: (k,) int32. weight: (k,) float32. counts: False for a filler, an entry repeated only
    because this rank would have nothing to do while others work.
    n_global: entries that count in the whole global batch, over ranks and accumulated batches.
    begins, ends: whether this is the first, the last local batch of its step. progress: share of the epoch, in (0, 1).
    """

    step: int
    id: np.ndarray
    copy: np.ndarray
    weight: np.ndarray
    position: np.ndarray
    counts: bool
    n_global: int
    begins: bool
    ends: bool
    progress: float


@dataclass(frozen=True)
class Batch:
    """One local batch, read and on its device. input: (k, ...) float; target: (k,) or (k, H, W) int64."""

    turn: Turn
    input: torch.Tensor
    target: torch.Tensor
