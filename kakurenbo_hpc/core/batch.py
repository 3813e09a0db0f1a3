"""Local batches: the micro-batch that names samples, the batch that was read, and candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class MicroBatch:
    """One local batch of a step, before it is read.

    Attributes:
        step: number of the optimizer step in its pass.
        id: (k,) int64, sample ids.
        copy: (k,) int32, tells repeats of one sample apart.
        weight: (k,) float32, multiplies the losses.
        position: (k,) int64, place in the epoch's global order.
        counts: False for a filler, an entry repeated only so that this rank takes part in the step.
        n_global: entries that count in the global batch, over ranks and accumulated batches.
        begins: whether this is the first local batch of its step.
        ends: whether this is the last local batch of its step.
        progress: fraction of the epoch, in (0, 1).
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
    """One local batch, read and on its device.

    Attributes:
        micro_batch: which samples these are.
        input: (k, ...) float.
        target: (k,) or (k, H, W) int64.
    """

    micro_batch: MicroBatch
    input: torch.Tensor
    target: torch.Tensor


# What a batch-level method keeps on one rank, beside the ledger; checkpointed with it.
MethodState = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Candidates:
    """One rank's part of a candidate batch, or of a training batch, after its forward pass.

    Attributes:
        id: (k,) int64.
        copy: (k,) int32.
        loss: (k,) float32.
        extra: further (k,) columns that the method declares.
    """

    id: np.ndarray
    copy: np.ndarray
    loss: np.ndarray
    extra: Mapping[str, np.ndarray]
