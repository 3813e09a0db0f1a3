"""CIFAR-10 and CIFAR-100 in the binary and in the Python version, unpacked or as tar.gz.

Source: https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import DataError
from .files import find_first, read_members
from .image_bytes import ImageBytes

SHAPE = (3, 32, 32)
_N_PIXELS = 3 * 32 * 32


class Layout(NamedTuple):
    """Where one of the two data sets keeps what.

    Attributes:
        binary: folder and archive of the binary version.
        python: folder and archive of the Python version.
        train: names of the training files, without ``.bin``.
        test: name of the test file, without ``.bin``.
        n_label_bytes: label bytes before each image of the binary version, of which the last is the class.
        label_key: of the classes in the Python version.
        n_classes: number of classes.
    """

    binary: tuple[str, str]
    python: tuple[str, str]
    train: tuple[str, ...]
    test: str
    n_label_bytes: int
    label_key: bytes
    n_classes: int


CIFAR10 = Layout(
    binary=("cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
    python=("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    n_label_bytes=1,
    label_key=b"labels",
    n_classes=10,
)
CIFAR100 = Layout(
    binary=("cifar-100-binary", "cifar-100-binary.tar.gz"),
    python=("cifar-100-python", "cifar-100-python.tar.gz"),
    train=("train",),
    test="test",
    n_label_bytes=2,
    label_key=b"fine_labels",
    n_classes=100,
)


def read_cifar(root: Path, layout: Layout) -> tuple[ImageBytes, ImageBytes]:
    """Return the training and the test images; both versions hold the same ones in the same order.

    Args:
        root: a folder or archive of either version, or the folder that holds one.
        layout: of CIFAR-10 or CIFAR-100.

    Raises:
        DataError: files are missing or damaged.
    """
    place = find_first(root, [*layout.binary, *layout.python])
    is_binary = place.name in layout.binary
    suffix = ".bin" if is_binary else ""
    names = [f"{name}{suffix}" for name in (*layout.train, layout.test)]
    parse: Callable[[bytes, str, Layout], ImageBytes] = _parse_binary if is_binary else _parse_pickle
    parts = [
        parse(content, f"{place}: {name}", layout)
        for name, content in zip(names, read_members(place, names), strict=True)
    ]
    return _join(parts[:-1]), parts[-1]


def _join(parts: Sequence[ImageBytes]) -> ImageBytes:
    return ImageBytes(
        np.concatenate([part.pixels for part in parts]), np.concatenate([part.labels for part in parts])
    )


def _parse_binary(content: bytes, where: str, layout: Layout) -> ImageBytes:
    """Return the images of a binary file: rows of label bytes and 3,072 pixels, colour by colour."""
    row = layout.n_label_bytes + _N_PIXELS
    if not content or len(content) % row:
        raise DataError(
            f"{where}: has {len(content)} bytes, but must have a multiple of {row}; download it again"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, row)
    return _check(rows[:, layout.n_label_bytes :], rows[:, layout.n_label_bytes - 1], where, layout)


def _parse_pickle(content: bytes, where: str, layout: Layout) -> ImageBytes:
    """Return the images of a pickled file: a dict of ``data`` (n, 3072) uint8 and a list of classes."""
    try:
        values = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        pixels, labels = np.asarray(values[b"data"]), np.asarray(values[layout.label_key])
    except Exception as problem:  # a damaged pickle raises many kinds
        what = f"{type(problem).__name__}: {problem}"
        raise DataError(f"{where}: damaged ({what}); download it again") from None
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), _N_PIXELS) or labels.dtype.kind != "i":
        raise DataError(
            f"{where}: holds {pixels.dtype} of shape {pixels.shape} and {len(labels)} classes, but must hold "
            f"uint8 of shape (n, {_N_PIXELS}) and n classes; download it again"
        )
    return _check(pixels, labels, where, layout)


def _check(pixels: np.ndarray, labels: np.ndarray, where: str, layout: Layout) -> ImageBytes:
    if not len(labels):
        raise DataError(f"{where}: holds no images; download it again")
    if not (0 <= labels.min() and labels.max() < layout.n_classes):
        raise DataError(
            f"{where}: classes go from {labels.min()} to {labels.max()}, but are 0 to "
            f"{layout.n_classes - 1}; download it again"
        )
    return ImageBytes(np.ascontiguousarray(pixels).reshape(-1, *SHAPE), labels.astype(np.int64))


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler of dicts, lists, numbers, strings and NumPy arrays, and of nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the three functions that make an array.

        Raises:
            UnpicklingError: the pickle names anything else.
        """
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _empty_array
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no file of CIFAR does")


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """Return the empty array that the pickle then fills."""
    return np.ndarray.__new__(np.ndarray, shape, "b")
