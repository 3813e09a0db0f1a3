"""What every data set is to the driver: samples by id, read a batch at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ReadRequest:
    """Which samples to read. id: (k,) int64; copy: (k,) int32, told apart by their augmentation draws.

    augment: under the training augmentation, drawn from (seed, epoch, id, copy); else the plain sample.
    """

    id: np.ndarray
    copy: np.ndarray
    epoch: int
    augment: bool


@dataclass(frozen=True)
class SampleFiles:
    """Where samples lie, one file each: sample i is root / names[i], of sizes[i] bytes, last changed at changed[i], in ns.

    names: relative, with forward slashes.
    """

    root: Path
    names: Sequence[str]
    sizes: np.ndarray
    changed: np.ndarray

    def __len__(self) -> int:
        return len(self.names)


class Dataset(ABC):
    """Samples 0 to len - 1. It goes to loader processes by pickling, and is opened there."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitems__(self, request: ReadRequest) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs (k, ...) float32 and targets (k, ...) int64. Named as torch's fetcher wants it."""

    def labels(self) -> np.ndarray | None:
        """Return the class of every sample, (len,) int64, without reading any; None where targets are no classes."""
        return None

    def files(self) -> SampleFiles | None:
        """Return the file of every sample; None where samples are not files of their own."""
        return None

    def relocate(self, root: Path) -> Dataset:
        """Return the same samples, read from files of the same names below another folder."""
        raise TypeError(f"{type(self).__name__} reads no files")

    @property
    def reads_ahead(self) -> bool:
        """Whether threads of the rank's own process read samples ahead, where the job asks for no loader processes."""
        return False

    def stream(
        self, requests: Sequence[ReadRequest], device: torch.device
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield what ``__getitems__`` returns for each request, read ahead, on the device or not there yet."""
        raise TypeError(f"{type(self).__name__} does not read ahead")


@dataclass(frozen=True)
class DatasetSplits:
    """A data set in two parts. shape: of one input. fingerprint: changes when ids would mean other samples.

    target_shape: (H, W) of masks; () where targets are class labels.
    """

    train: Dataset
    validation: Dataset
    n_classes: int
    shape: tuple[int, ...]
    fingerprint: str
    target_shape: tuple[int, ...] = ()
