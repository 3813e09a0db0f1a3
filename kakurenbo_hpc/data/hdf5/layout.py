"""The layout of one HDF5 file: rows, shapes and dtypes of its datasets, and where their bytes begin."""

from __future__ import annotations

import errno
import math
import unicodedata
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
        dtypes: of each dataset as it is read, in this machine's byte order.
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
            dtypes = [_read_dtype(dataset) for dataset in opened]
            n_bytes = max(map(sample_bytes, shapes, dtypes))
            for name, shape in zip(datasets, shapes, strict=True):
                if 0 in shape:
                    raise DataError(f"{path}: samples of {name} are of shape {shape}, so hold no numbers")
            if n_bytes > LARGEST:
                raise DataError(
                    f"{path}: says that a sample has {n_bytes:,} bytes; the file is damaged, copy it again"
                )
            return Layout(lengths[0], offsets, "; ".join(map(_describe, opened)), shapes, dtypes)
    except OSError as problem:
        reason, advice = explain(problem)
        raise DataError(f"{path}: cannot be read as HDF5 ({reason}); {advice}") from None


def explain(problem: OSError, advice: str = "copy it again") -> tuple[str, str]:
    """Return the reason of an error of a file or of HDF5 on one line, and what to do about it.

    Args:
        problem: raised by h5py or by reading the file's bytes.
        advice: for a damaged or missing file.
    """
    reason = " ".join(str(problem).split())
    if "h5clear" in reason:
        advice = "a program that wrote it did not close it: if none is writing, run h5clear -s on it"
    elif "unable to lock" in reason and problem.errno in (errno.EAGAIN, errno.EACCES):
        advice = "another program has it open for writing: wait until it has ended"
    elif "unable to lock" in reason:
        advice = "its file system has no locks: export HDF5_USE_FILE_LOCKING=FALSE"
    elif "filter" in reason and ("registered" in reason or "plugin" in reason):
        advice = "it is compressed by a filter that this HDF5 lacks: see HDF5_PLUGIN_PATH"
    elif problem.errno == errno.EACCES:
        advice = "ask its owner for the right to read it"
    elif problem.errno == errno.EMFILE:
        advice = "too many files are open: raise ulimit -n"
    return problem.strerror or reason, advice


def _checked_dataset(file: Any, path: Path, name: str) -> Any:
    """Return a dataset of numbers that are stored in this very file.

    Data in other files is refused rather than read: the manifest would not notice that it changes, and it
    would not be staged.
    """
    import h5py

    dataset = _follow(file, name)
    if not isinstance(dataset, h5py.Dataset):
        raise DataError(f"{path}: {_not_found(file, name)}")
    if dataset.is_virtual:
        raise DataError(
            f"{path}: {name} is a virtual dataset, of numbers stored elsewhere; copy them into it"
        )
    if dataset.external:
        raise DataError(
            f"{path}: {name} is stored in {dataset.external[0][0]}; copy its numbers into this file"
        )
    if h5py.h5o.get_info(dataset.id).fileno != h5py.h5o.get_info(file.id).fileno:
        raise DataError(
            f"{path}: {name} is a link to another file, {dataset.file.filename}; copy its numbers into this"
        )
    if dataset.shape is None:
        raise DataError(f"{path}: {name} is empty, of no shape, but must hold numbers")
    if dataset.dtype.kind not in "biuf":
        raise DataError(f"{path}: {name} holds {dataset.dtype}, but must hold numbers")
    if filter_name := _missing_filter(dataset):
        raise DataError(
            f"{path}: {name} is compressed by {filter_name}, which this HDF5 lacks; install hdf5plugin and "
            "export HDF5_PLUGIN_PATH as it says, or write the file with gzip"
        )
    return dataset


def _follow(file: Any, name: str) -> Any:
    """Return what a name stands for in a file, None where it stands for nothing."""
    try:
        return file[name]
    except (KeyError, ValueError, OSError):  # no such name, an empty one, a link to a damaged file
        return None


def _not_found(file: Any, name: str) -> str:
    """Say that a file has no such dataset, and what it has instead."""
    names = _dataset_names(file)
    alike = [one for one in names if unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", name)]
    if alike:
        return f"the name of its dataset {name} is spelled {ascii(alike[0])}, not {ascii(name)}; write it so"
    listed = ", ".join(names[:6]) or "none"
    return f"holds no dataset {name} of its own, but {listed}; is this the data set that the job names?"


def _missing_filter(dataset: Any) -> str:
    """Return the name of a filter that is needed for reading and not available, or nothing."""
    import h5py

    properties = dataset.id.get_create_plist()
    for position in range(properties.get_nfilters()):
        code, _, _, label = properties.get_filter(position)
        if not h5py.h5z.filter_avail(code) and dataset.id.get_num_chunks():
            # Where it was missing at writing, too, an optional filter was left out.
            if not dataset.id.get_chunk_info(0).filter_mask >> position & 1:
                return f"filter {code}" + (f" ({label.decode(errors='replace')})" if label else "")
    return ""


def _dataset_names(file: Any) -> list[str]:
    import h5py

    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names


def _offset(dataset: Any) -> int:
    """Return where a dataset's bytes begin, if they are contiguous and what numpy has in memory."""
    offset = dataset.id.get_offset() if dataset.chunks is None and _is_stored_as_read(dataset) else None
    return THROUGH_H5PY if offset is None else offset


def _is_stored_as_read(dataset: Any) -> bool:
    """Return whether the stored type is the one that is read, to the bit.

    A dtype is only the nearest that numpy has: bfloat16 is reported as float32, 12 bits of 16 as int16.
    """
    import h5py

    return dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype)) and (
        dataset.dtype == _read_dtype(dataset)
    )


def _read_dtype(dataset: Any) -> np.dtype:
    """Return the dtype that a dataset is read as: its own, or float64 for longer ones, which torch lacks."""
    dtype = dataset.dtype.newbyteorder("=")
    return np.dtype(np.float64) if dtype.kind == "f" and dtype.itemsize > 8 else np.dtype(dtype.str)


def sample_bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Return the bytes of one sample in one dataset."""
    return math.prod(shape) * dtype.itemsize


def _describe(dataset: Any) -> str:
    if dataset.chunks is None:
        return "contiguous" if _is_stored_as_read(dataset) else "contiguous, of another type in memory"
    return f"chunks {dataset.chunks}" + (f", {dataset.compression}" if dataset.compression else "")
