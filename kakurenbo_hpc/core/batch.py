"""What a rank puts through the network at once: the turn that says which samples, the batch that brings them, and what a
batch-level method sees of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class MicroBatch:
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

    micro_batch: MicroBatch
    input: torch.Tensor
    target: torch.Tensor


MethodState = Mapping[
    str, np.ndarray
]  # what a batch-level method keeps on one rank, beside the ledger; checkpointed with it


@dataclass(frozen=True)
class Candidates:
    """One rank's part of a candidate batch, or of a training batch, after its forward pass.

    id: (k,) int64. copy: (k,) int32. loss: (k,) float32. extra: further (k,) columns that the method asked for.
    """

    id: np.ndarray
    copy: np.ndarray
    loss: np.ndarray
    extra: Mapping[str, np.ndarray]
