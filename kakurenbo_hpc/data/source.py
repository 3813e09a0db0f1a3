"""What every data set is to the driver: samples by id, read a batch at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Request:
    """Which samples to read. id: (k,) int64; copy: (k,) int32, told apart by their augmentation draws.

    augment: under the training augmentation, drawn from (seed, epoch, id, copy); else the plain sample.
    """

    id: np.ndarray
    copy: np.ndarray
    epoch: int
    augment: bool


class Source(ABC):
    """Samples 0 to len - 1. It goes to loader processes by pickling, and is opened there."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitems__(self, request: Request) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs (k, ...) float32 and targets (k, ...) int64. Named as torch's fetcher wants it."""

    def labels(self) -> np.ndarray | None:
        """Return the class of every sample, (len,) int64, without reading any; None where targets are no classes."""
        return None


@dataclass(frozen=True)
class Data:
    """A data set in two parts. shape: of one input. fingerprint: changes when ids would mean other samples."""

    train: Source
    validation: Source
    n_classes: int
    shape: tuple[int, ...]
    fingerprint: str
