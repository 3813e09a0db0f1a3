"""The layout of one HDF5 file: rows, shapes and dtypes of its datasets, and where their bytes begin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import DataError

THROUGH_H5PY = -1  # the offset of a dataset that cannot be read without HDF5
LARGEST = 1 << 34  # bytes of one sample: a file with more is damaged or malicious


class Layout(NamedTuple):
    """What one file holds.

    Attributes:
        rows: samples.
        offsets: where each dataset begins, or THROUGH_H5PY.
        description: for people.
        shapes: of one sample in each dataset.
        dtypes: of each dataset, in this machine's byte order.
    """

    rows: int
    offsets: list[int]
    description: str
    shapes: list[tuple[int, ...]]
    dtypes: list[np.dtype]


def read_layout(path: Path, datasets: Sequence[str], single: bool) -> Layout:
    """Return the layout of a file, whose samples are not read.

    Args:
        path: of the file.
        datasets: names of those to look at.
        single: the file is one sample; otherwise each row of its datasets is.

    Raises:
        DataError: the file is damaged, or lacks a dataset of numbers, or their rows differ.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            opened = [_checked_dataset(file, path, name) for name in datasets]
            lengths = [1 if single else dataset.shape[0] if dataset.shape else 0 for dataset in opened]
            if len(set(lengths)) > 1 or not lengths[0]:
                pairs = ", ".join(
                    f"{name} has {length}" for name, length in zip(datasets, lengths, strict=True)
                )
                raise DataError(f"{path}: {pairs} rows, but all datasets must have as many, and at least one")
            offsets = [_offset(dataset) for dataset in opened]
            shapes = [tuple(dataset.shape if single else dataset.shape[1:]) for dataset in opened]
            dtypes = [dataset.dtype.newbyteorder("=") for dataset in opened]
            n_bytes = max(map(sample_bytes, shapes, dtypes))
            if n_bytes > LARGEST:
                raise DataError(
                    f"{path}: says that a sample has {n_bytes:,} bytes; the file is damaged, copy it again"
                )
            return Layout(lengths[0], offsets, "; ".join(map(_describe, opened)), shapes, dtypes)
    except OSError as problem:
        raise DataError(
            f"{path}: cannot be read as HDF5 ({' '.join(str(problem).split())}); copy it again"
        ) from None


def _checked_dataset(file: Any, path: Path, name: str) -> Any:
    """Return a dataset of numbers that are stored in this very file."""
    import h5py

    dataset = file.get(name) if not isinstance(file.get(name, getlink=True), h5py.ExternalLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        names = ", ".join(_dataset_names(file)[:6]) or "none"
        raise DataError(
            f"{path}: holds no dataset {name} of its own, but {names}; is this the data set that the job "
            "names?"
        )
    if dataset.dtype.kind not in "biuf":
        raise DataError(f"{path}: {name} holds {dataset.dtype}, but must hold numbers")
    return dataset


def _dataset_names(file: Any) -> list[str]:
    import h5py

    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names


def _offset(dataset: Any) -> int:
    """Return where a dataset's bytes begin, if they are contiguous and in this machine's byte order."""
    offset = dataset.id.get_offset() if dataset.dtype.isnative and dataset.chunks is None else None
    return THROUGH_H5PY if offset is None else offset


def sample_bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Return the bytes of one sample in one dataset."""
    return math.prod(shape) * dtype.itemsize


def _describe(dataset: Any) -> str:
    if dataset.chunks is None:
        return "contiguous" if dataset.dtype.isnative else "contiguous, other byte order"
    return f"chunks {dataset.chunks}" + (f", {dataset.compression}" if dataset.compression else "")
