"""Samples of HDF5 files, read by threads, several at a time, straight from the file into memory that is used again."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...errors import DataError, SampleError
from ..dataset import Dataset, ReadRequest, SampleFiles
from ..retry import retry
from .manifest import THROUGH_H5PY, Manifest

if TYPE_CHECKING:
    import torch

    from ..pinned_pool import PinnedPool


class Hdf5Samples(Dataset):
    """Rows of the manifest's files: the first dataset is the input, the second, where there is one, the mask.

    labels: (N,) int64, the class of each sample, or None where masks are read. n_classes: what masks count up to.
    threads: samples that are read at once.
    """

    def __init__(self, manifest: Manifest, labels: np.ndarray | None, n_classes: int, threads: int):
        self._manifest, self._labels, self._n_classes, self._threads = manifest, labels, n_classes, threads
        self._ends = np.cumsum(manifest.rows)
        self._buffers: list[PinnedPool] | None = None
        self._advice = "copy it again"

    @abstractmethod
    def prepare(self, input: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return float32 inputs (k, C, ...) and int64 targets, of what the files hold, on the device where it is."""

    def __len__(self) -> int:
        return int(self._ends[-1])

    def labels(self) -> np.ndarray | None:
        return self._labels

    def files(self) -> SampleFiles | None:
        manifest = self._manifest
        return (
            SampleFiles(manifest.root, manifest.names.tolist(), manifest.sizes, manifest.changed)
            if manifest.rows.max() == 1
            else None
        )

    def relocate(self, root: Path) -> Hdf5Samples:
        there = object.__new__(type(self))
        there.__dict__ = {**self.__dict__, "_manifest": replace(self._manifest, root=root), "_buffers": None}
        there._advice = "resume the run, which fetches it again"
        return there

    def __getitems__(self, request: ReadRequest):
        import torch

        arrays = [np.empty((len(request.id), *shape), dtype) for shape, dtype in self._forms()]
        for row, id in enumerate(request.id.tolist()):
            self._read(id, [array[row : row + 1] for array in arrays])
        return self._prepared([torch.from_numpy(array) for array in arrays], request)

    @property
    def reads_ahead(self) -> bool:
        return True

    def stream(self, requests: Sequence[ReadRequest], device: torch.device):
        requests, ahead, buffers = iter(requests), deque(), self._buffers_for(device)

        def is_enough() -> bool:  # while the first is trained, the others keep all threads at work
            return (
                len(ahead) > 1
                and sum(len(one.request.id) for one in ahead) - len(ahead[0].request.id) >= self._threads
            )

        with ThreadPoolExecutor(self._threads) as pool:
            while True:
                while not is_enough() and (request := next(requests, None)) is not None:
                    ahead.append(
                        self._begin(request, [buffer.take(len(request.id)) for buffer in buffers], pool)
                    )
                if not ahead:
                    return
                begun = ahead.popleft()
                for read in begun.reads:
                    read.result()
                tensors = [buffer.to(array, device) for buffer, array in zip(buffers, begun.arrays)]
                yield self._prepared(tensors, begun.request)
                del begun, tensors  # or their memory would not be free for the next

    def _buffers_for(self, device: torch.device) -> list[PinnedPool]:
        if self._buffers is None:
            from ..pinned_pool import PinnedPool

            self._buffers = [
                PinnedPool(shape, dtype, pinned=device.type == "cuda") for shape, dtype in self._forms()
            ]
        return self._buffers

    def _forms(self) -> list[tuple[tuple[int, ...], np.dtype]]:
        """Return shape and dtype of what is read of a sample; labels that are known are not."""
        return list(zip(self._manifest.shapes, self._manifest.dtypes))[: 1 if self._labels is not None else 2]

    def _begin(self, request: ReadRequest, arrays: list[np.ndarray], pool: ThreadPoolExecutor) -> _Begun:
        rows = enumerate(request.id.tolist())
        return _Begun(
            request,
            arrays,
            [pool.submit(self._read, id, [array[row : row + 1] for array in arrays]) for row, id in rows],
        )

    def _prepared(
        self, tensors: list[torch.Tensor], request: ReadRequest
    ) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        if self._labels is not None:
            tensors = [
                *tensors,
                torch.from_numpy(self._labels[request.id]).to(tensors[0].device, non_blocking=True),
            ]
        return self.prepare(*tensors)

    def _read(self, id: int, into: list[np.ndarray]) -> None:
        """Fill arrays (1, ...) with one sample. Raises DataError, which names the file, if it cannot be read whole or is wrong."""
        file = int(np.searchsorted(self._ends, id, side="right"))
        row = id - int(self._ends[file]) + int(self._manifest.rows[file])
        try:
            retry(lambda: self._read_once(file, row, into))
        except OSError as problem:
            names, reason = (
                " and ".join(self._manifest.datasets[: len(into)]),
                problem.strerror or " ".join(str(problem).split()),
            )
            raise DataError(
                f"{self._manifest.path(file)}: {names} cannot be read ({reason}); {self._advice}"
            ) from None
        if self._labels is None and not (into[1].min() >= 0 and into[1].max() < self._n_classes):
            name, wrong = (
                self._manifest.datasets[1],
                next(x for x in (into[1].min(), into[1].max()) if not 0 <= x < self._n_classes),
            )
            found = f"{self._manifest.path(file)}: {name} holds {wrong}"
            raise SampleError(f"{found}, but classes are 0 to {self._n_classes - 1}; mend the file")

    def _read_once(self, file: int, row: int, into: list[np.ndarray]) -> None:
        path, offsets = self._manifest.path(file), self._manifest.offsets[file, : len(into)].tolist()
        if THROUGH_H5PY in offsets:
            return self._read_through_h5py(path, row, into)
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for name, offset, array in zip(self._manifest.datasets, offsets, into):
                left, offset = memoryview(array).cast("B"), offset + row * array.nbytes
                while left:
                    n = os.preadv(handle, [left], offset)
                    if n == 0:
                        raise OSError(f"{name} ends {len(left)} bytes early")
                    left, offset = left[n:], offset + n
        finally:
            os.close(handle)

    def _read_through_h5py(self, path: Path, row: int, into: list[np.ndarray]) -> None:
        import h5py

        with h5py.File(path, "r") as file:
            for name, shape, array in zip(self._manifest.datasets, self._manifest.shapes, into):
                dataset = file.get(name)
                if dataset is None:
                    raise DataError(f"{path}: holds no dataset {name} any more; was the data set changed?")
                if dataset.shape == shape:
                    dataset.read_direct(array[0])
                elif dataset.shape[1:] == shape and row < len(dataset):
                    dataset.read_direct(array, np.s_[row : row + 1])
                else:
                    raise DataError(
                        f"{path}: {name} is now of shape {dataset.shape}; was the data set changed?"
                    )


class _Begun(NamedTuple):
    """A batch that threads are reading."""

    request: ReadRequest
    arrays: list[np.ndarray]
    reads: list[Future]
