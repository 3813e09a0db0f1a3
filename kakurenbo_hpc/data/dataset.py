"""Data sets: the `Dataset` interface, views of a data set, and its training and validation splits."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ReadRequest:
    """The samples of one batch.

    Attributes:
        id: (k,) int64, which samples.
        copy: (k,) int32, which of several appearances in the epoch; each has its own augmentation draws.
        epoch: the current epoch.
        augment: whether the training augmentation applies, drawn from (seed, epoch, id, copy).
        seed: of the run, for data sets that crop at random while they read.
    """

    id: np.ndarray
    copy: np.ndarray
    epoch: int
    augment: bool
    seed: int = 0


class PackedIn(NamedTuple):
    """Where samples lie that share files.

    Attributes:
        parts: names of the files, relative to the folder of the data set.
        part: (N,) int32, the file of each sample.
        offset: (N,) int64, where it begins, in bytes.
    """

    parts: Sequence[str]
    part: np.ndarray
    offset: np.ndarray


@dataclass(frozen=True)
class SampleFiles:
    """The files of samples that have one each, or that are given one each where they are copied to.

    Attributes:
        root: the folder that the names are relative to.
        names: of each sample's file, with forward slashes.
        sizes: (N,) int64, in bytes.
        changed: (N,) int64, times of last change in nanoseconds.
        packed: where samples lie that share files; None if each has its own.
    """

    root: Path
    names: Sequence[str]
    sizes: np.ndarray
    changed: np.ndarray
    packed: PackedIn | None = None

    def __len__(self) -> int:
        return len(self.names)

    def source(self, row: int) -> tuple[Path, int]:
        """Return the file that holds a sample, and the offset of its first byte."""
        if self.packed is None:
            return self.root / self.names[row], 0
        return self.root / self.packed.parts[self.packed.part[row]], int(self.packed.offset[row])

    def subset(self, rows: np.ndarray) -> SampleFiles:
        """Return the files of some samples."""
        names = [self.names[row] for row in rows]
        packed = self.packed and self.packed._replace(
            part=self.packed.part[rows], offset=self.packed.offset[rows]
        )
        return SampleFiles(self.root, names, self.sizes[rows], self.changed[rows], packed)


class Dataset(ABC):
    """Samples 0 to N - 1, read by batches.

    Rank 0 alone opens a data set. It is then pickled: once to the other ranks, and again to every DataLoader
    worker. So it should hold paths and small arrays, and open its files when it reads. After that it is only
    read. A batch may be read in any process, in any order and more than once, and its content depends on the
    request alone.

    A data set must have ``__len__`` and ``__getitems__``. It should have ``labels`` if its targets are
    classes: augmentation and the variations (label noise, imbalance ...) need them. The rest is for data on
    disk: ``files`` and ``relocate`` for samples in files of their own, which can be staged on the nodes'
    disks; ``reads_ahead`` and ``stream`` for reading in threads instead of DataLoader workers.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Return N, the number of samples."""

    @abstractmethod
    def __getitems__(self, request: ReadRequest) -> tuple[torch.Tensor, torch.Tensor]:
        """Read a batch of k samples. PyTorch's DataLoader expects this name.

        Returns:
            Inputs (k, ...) float32, and targets int64: classes (k,) or masks (k, H, W).

        Raises:
            DataError: a file cannot be read; the message names it.
        """

    def labels(self) -> np.ndarray | None:
        """Return the class of every sample, (N,) int64, without reading any; None if there are none."""
        return None

    def files(self) -> SampleFiles | None:
        """Return the file of every sample; None where samples are not files of their own."""
        return None

    def relocate(self, root: Path) -> Dataset:
        """Return the same samples, read from files of the same names below another folder."""
        raise TypeError(f"{type(self).__name__} reads no files")

    @property
    def reads_ahead(self) -> bool:
        """Whether ``stream`` can be used, where the job asks for no DataLoader workers."""
        return False

    def stream(
        self, requests: Sequence[ReadRequest], device: torch.device
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield what ``__getitems__`` returns for each request, read ahead by threads.

        Args:
            requests: the batches of a pass, in order.
            device: where the batches are needed. They may be there already, or still on the CPU.
        """
        raise TypeError(f"{type(self).__name__} does not read ahead")


class DatasetView(Dataset):
    """The samples of another data set under other ids or changed after reading.

    It is the data set beneath in everything that a subclass does not override, usually ``to_base`` or
    ``convert``.
    """

    def __init__(self, base: Dataset):
        self._base = base

    def to_base(self, request: ReadRequest) -> ReadRequest:
        """Return the request for the same samples in the data set beneath."""
        return request

    def convert(
        self, request: ReadRequest, batch: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets of this data set, made of those of the data set beneath."""
        return batch

    def __len__(self) -> int:
        return len(self._base)

    def __getitems__(self, request: ReadRequest) -> tuple[torch.Tensor, torch.Tensor]:
        """Read a batch."""
        return self.convert(request, self._base.__getitems__(self.to_base(request)))

    def labels(self) -> np.ndarray | None:
        """Return the class of every sample."""
        return self._base.labels()

    def files(self) -> SampleFiles | None:
        """Return the file of every sample."""
        return self._base.files()

    def relocate(self, root: Path) -> DatasetView:
        """Return the same view of files below another folder."""
        view = copy.copy(self)
        view._base = self._base.relocate(root)
        return view

    @property
    def reads_ahead(self) -> bool:
        """Whether the data set beneath can stream."""
        return self._base.reads_ahead

    def stream(
        self, requests: Sequence[ReadRequest], device: torch.device
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield batches, read ahead."""
        # Not a generator: its frame would keep a batch, whose memory the next one may need.
        return map(self.convert, requests, self._base.stream([*map(self.to_base, requests)], device))


@dataclass(frozen=True)
class DatasetSplits:
    """A data set in two parts.

    Attributes:
        train: what is trained on.
        validation: what is validated on.
        n_classes: number of classes of the targets.
        shape: of one input, channels first.
        fingerprint: changes whenever ids would mean other samples; a run resumes only with the same one.
        target_shape: (H, W) of masks; () where targets are class labels.
        classes: their names; () where they have none.
        held_out: what ``data.holdout`` cuts off the training samples, not augmented; None for none.
        crops: whether the data set itself does random_resized_crop, a flip that comes next, resize and
            center_crop while it reads, of images that differ in size; of images with masks, random_scale,
            random_crop, resize and flip.
        own_sizes: whether images that are not augmented differ in size, so that they are read one by one.
    """

    train: Dataset
    validation: Dataset
    n_classes: int
    shape: tuple[int, ...]
    fingerprint: str
    target_shape: tuple[int, ...] = ()
    crops: bool = False
    own_sizes: bool = False
    classes: tuple[str, ...] = ()
    held_out: Dataset | None = None
