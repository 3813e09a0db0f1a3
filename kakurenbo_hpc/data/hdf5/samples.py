"""Samples of HDF5 files: threads read several at a time, from the file straight into reused buffers."""

from __future__ import annotations

import copy
import os
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...errors import DataError, SampleError
from ..dataset import Dataset, PackedIn, ReadRequest, SampleFiles
from ..read_at import read_at
from ..retry import retry
from .blocks import blocks_of, open_file, read_blocks
from .layout import THROUGH_H5PY, explain, sample_bytes
from .manifest import Manifest
from .scaling import ChannelScaling

if TYPE_CHECKING:
    import torch

    from ..pinned_pool import PinnedPool


class Hdf5Samples(Dataset):
    """Rows of a manifest's files: inputs of the first dataset and, without labels, masks of the second."""

    def __init__(
        self,
        manifest: Manifest,
        labels: np.ndarray | None,
        n_classes: int,
        threads: int,
        scaling: ChannelScaling | None = None,
        direct: bool = False,
    ):
        """Prepare to read.

        Args:
            manifest: of the files.
            labels: (N,) int64, the class of each sample; None where masks are read.
            n_classes: number of classes in masks.
            threads: samples that are read at once.
            scaling: of inputs, while they are read; None leaves them as they are stored.
            direct: read scaled inputs and masks past the page cache, from where the data is now.
        """
        self._manifest, self._labels, self._n_classes, self._threads = manifest, labels, n_classes, threads
        self._scaling, self._direct = scaling, direct
        self._ends = np.cumsum(manifest.rows)
        self._unpacked = False  # whether each row is a file of its own, as it is on a node's disk
        self._buffers: list[PinnedPool] | None = None
        self._advice = "copy it again"

    @abstractmethod
    def prepare(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs (k, C, ...) and targets int64 of what was read, on its device."""

    def __len__(self) -> int:
        return int(self._ends[-1])

    def labels(self) -> np.ndarray | None:
        """Return the class of every sample; None where masks are read."""
        return self._labels

    def files(self) -> SampleFiles | None:
        """Return the file of every sample: the rows of files that hold several become files of inputs alone.

        None where that is not possible: several masks a file, or rows that only HDF5 can read.
        """
        manifest = self._manifest
        if manifest.rows.max() == 1:
            return SampleFiles(manifest.root, manifest.names.tolist(), manifest.sizes, manifest.changed)
        begin = manifest.offsets[:, 0]
        if self._labels is None or (begin == THROUGH_H5PY).any():
            return None
        files = np.repeat(np.arange(len(manifest.names), dtype=np.int32), manifest.rows)
        row = np.arange(len(self)) - (self._ends - manifest.rows)[files]
        size = sample_bytes(manifest.shapes[0], manifest.dtypes[0])
        return SampleFiles(
            manifest.root,
            _RowNames(manifest, self._ends),
            np.full(len(self), size),
            manifest.changed[files],
            PackedIn(manifest.names.tolist(), files, begin[files] + row * size),
        )

    def relocate(self, root: Path) -> Hdf5Samples:
        """Return the same samples, read from files below another folder."""
        moved = copy.copy(self)
        moved._unpacked = bool(self._manifest.rows.max() > 1)
        moved._manifest, moved._buffers, moved._direct = replace(self._manifest, root=root), None, False
        moved._advice = "resume the run, which fetches it again"
        return moved

    def __getitems__(self, request: ReadRequest) -> tuple[torch.Tensor, torch.Tensor]:
        """Read a batch, one sample after the other."""
        import torch

        arrays = [np.empty((len(request.id), *shape), dtype) for shape, dtype in self._formats()]
        for row, sample in enumerate(request.id.tolist()):
            self._read(sample, [array[row : row + 1] for array in arrays])
        return self._finish([torch.from_numpy(array) for array in arrays], request)

    @property
    def reads_ahead(self) -> bool:
        """Whether ``stream`` can be used: it can."""
        return True

    def stream(
        self, requests: Sequence[ReadRequest], device: torch.device
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield batches on the device, read ahead by threads."""
        remaining, buffers = iter(requests), self._buffers_for(device)
        queue: deque[_PendingBatch] = deque()

        def is_enough() -> bool:  # while the first batch is trained on, the others keep all threads busy
            n_behind_first = sum(len(batch.request.id) for batch in queue) - len(queue[0].request.id)
            return len(queue) > 1 and n_behind_first >= self._threads

        with ThreadPoolExecutor(self._threads) as pool:
            while True:
                while not (queue and is_enough()) and (request := next(remaining, None)) is not None:
                    arrays = [buffer.take(len(request.id)) for buffer in buffers]
                    queue.append(self._begin(request, arrays, pool))
                    del arrays  # or their memory would not be free for a later batch
                if not queue:
                    return
                batch = queue.popleft()
                for read in batch.reads:
                    read.result()
                tensors = [
                    buffer.to(array, device) for buffer, array in zip(buffers, batch.arrays, strict=True)
                ]
                yield self._finish(tensors, batch.request)
                del batch, tensors  # or their memory would not be free for the next batch

    def _buffers_for(self, device: torch.device) -> list[PinnedPool]:
        if self._buffers is None:
            from ..pinned_pool import PinnedPool

            self._buffers = [
                PinnedPool(shape, dtype, pinned=device.type == "cuda") for shape, dtype in self._formats()
            ]
        return self._buffers

    def _stored_formats(self) -> list[tuple[tuple[int, ...], np.dtype]]:
        """Return shape and dtype of a sample's input and, without labels, of its mask, as they are stored."""
        formats = zip(self._manifest.shapes, self._manifest.dtypes, strict=True)
        return list(formats)[: 1 if self._labels is not None else 2]

    def _formats(self) -> list[tuple[tuple[int, ...], np.dtype]]:
        """Return the same of the arrays that are read into."""
        (shape, dtype), *masks = self._stored_formats()
        first = self._scaling.result_format(shape) if self._scaling else (shape, dtype)
        return [first, *((shape, np.dtype(np.int64)) for shape, _ in masks)]

    def _begin(
        self, request: ReadRequest, arrays: list[np.ndarray], pool: ThreadPoolExecutor
    ) -> _PendingBatch:
        reads = [
            pool.submit(self._read, sample, [array[row : row + 1] for array in arrays])
            for row, sample in enumerate(request.id.tolist())
        ]
        return _PendingBatch(request, arrays, reads)

    def _finish(self, tensors: list[torch.Tensor], request: ReadRequest) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        if self._labels is not None:
            labels = torch.from_numpy(self._labels[request.id])
            tensors = [*tensors, labels.to(tensors[0].device, non_blocking=True)]
        return self.prepare(*tensors)

    def _read(self, sample: int, into: list[np.ndarray]) -> None:
        """Fill arrays (1, ...) with one sample.

        Raises:
            DataError: the file, which it names, cannot be read whole, or its mask has other classes.
        """
        file, row = _file_and_row(self._manifest, self._ends, sample)
        path = self._manifest.path(file)
        if self._unpacked:
            path = self._manifest.root / _row_name(self._manifest, file, row)
        try:
            retry(lambda: self._read_once(path, file, row, into))
        except OSError as problem:
            names = " and ".join(self._manifest.datasets[: len(into)])
            reason, advice = explain(problem, self._advice)
            raise DataError(f"{path}: {names} cannot be read ({reason}); {advice}") from None

    def _read_once(self, path: Path, file: int, row: int, into: list[np.ndarray]) -> None:
        offsets = self._manifest.offsets[file, : len(into)].tolist()
        if self._unpacked:
            offsets, row = [0], 0
        if THROUGH_H5PY in offsets:
            self._read_through_h5py(path, row, into)
            return
        handle = open_file(path, self._direct)
        try:
            for name, begin, (shape, dtype), fill, array in zip(
                self._manifest.datasets,
                offsets,
                self._stored_formats(),
                self._fills(path),
                into,
                strict=False,
            ):
                n_bytes = sample_bytes(shape, dtype)
                offset = begin + row * n_bytes
                if fill is None:
                    read_at(handle, array.data.cast("B"), offset, name)
                    continue
                unit = fill.unit * dtype.itemsize
                blocks = read_blocks(handle, offset, n_bytes, unit, self._direct, name)
                fill.work(array[0], (block.view(dtype) for block in blocks))
        finally:
            os.close(handle)

    def _read_through_h5py(self, path: Path, row: int, into: list[np.ndarray]) -> None:
        import h5py

        names, formats = self._manifest.datasets, self._stored_formats()
        with h5py.File(path, "r") as file:
            for name, (shape, dtype), fill, array in zip(
                names, formats, self._fills(path), into, strict=False
            ):
                dataset = file.get(name)
                if dataset is None:
                    raise DataError(f"{path}: no longer holds dataset {name}; was the data set changed?")
                stored = np.empty((1, *shape), dtype) if fill else array
                if dataset.shape == shape:
                    dataset.read_direct(stored[0])
                elif dataset.shape[1:] == shape and row < len(dataset):
                    dataset.read_direct(stored, np.s_[row : row + 1])
                else:
                    raise DataError(
                        f"{path}: {name} is now of shape {dataset.shape}; was the data set changed?"
                    )
                if fill:
                    fill.work(array[0], blocks_of(stored, fill.unit))

    def _fills(self, path: Path) -> list[_Fill | None]:
        """Return how the arrays are filled with what is stored; None where they are the same."""
        scaling = None if self._scaling is None else _Fill(self._scaling.unit, self._scaling.fill)
        return [scaling, _Fill(1, partial(self._fill_mask, path))]

    def _fill_mask(self, path: Path, mask: np.ndarray, blocks: Iterable[np.ndarray]) -> None:
        """Fill a mask, (H, W) int64, from blocks of (k,) numbers.

        Raises:
            SampleError: it holds anything but whole numbers of classes.
        """
        done, flat = 0, mask.reshape(-1)
        for block in blocks:
            wrong = [value for value in (block.min(), block.max()) if not 0 <= value < self._n_classes]
            if not wrong and block.dtype.kind == "f":
                wrong = list(block[block != np.rint(block)][:1])
            if wrong:
                raise SampleError(
                    f"{path}: {self._manifest.datasets[1]} holds {wrong[0]!s}, "
                    f"but classes are whole numbers from 0 to {self._n_classes - 1}; mend the file"
                )
            flat[done : done + len(block)] = block
            done += len(block)


class _Fill(NamedTuple):
    """How an array is filled from blocks of stored numbers, each of a multiple of ``unit`` numbers."""

    unit: int
    work: Callable[[np.ndarray, Iterable[np.ndarray]], None]


class _RowNames(Sequence[str]):
    """Names of files for the rows of files that hold several, made one by one."""

    def __init__(self, manifest: Manifest, ends: np.ndarray):
        self._manifest, self._ends = manifest, ends

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, sample):  # type: ignore[no-untyped-def]  # no caller takes slices
        """Return one name."""
        return _row_name(self._manifest, *_file_and_row(self._manifest, self._ends, sample))


def _row_name(manifest: Manifest, file: int, row: int) -> str:
    return f"{manifest.names[file]}.rows/{row:08d}"


def _file_and_row(manifest: Manifest, ends: np.ndarray, sample: int) -> tuple[int, int]:
    file = int(np.searchsorted(ends, sample, side="right"))
    return file, int(sample) - int(ends[file]) + int(manifest.rows[file])


class _PendingBatch(NamedTuple):
    """A batch that threads are reading."""

    request: ReadRequest
    arrays: list[np.ndarray]
    reads: list[Future]
