"""IDX files, the format of MNIST and Fashion-MNIST, compressed by gzip or not.

Four bytes give type and number of dimensions; sizes follow, then values.

Source: http://yann.lecun.com/exdb/mnist/
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import DataError
from .files import find_first, read_file
from .image_bytes import ImageBytes

_BYTES = 0x08  # the type of values in all files of the two data sets


def read_idx_images(root: Path, folders: tuple[str, ...]) -> tuple[ImageBytes, ImageBytes]:
    """Return the training and the test images.

    Args:
        root: the folder of the four files, or one that holds it.
        folders: below root in which they may lie as well.

    Raises:
        DataError: a file is missing or damaged, or images and labels do not fit together.
    """
    folder = next((root / name for name in folders if (root / name).is_dir()), root)
    train, test = (_read_pair(folder, prefix) for prefix in ("train", "t10k"))
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        raise DataError(
            f"{folder}: training images are of shape {train.pixels.shape[1:]}, but test images of "
            f"{test.pixels.shape[1:]}; download them again"
        )
    return train, test


def _read_pair(folder: Path, prefix: str) -> ImageBytes:
    pixels, labels = (
        _read(find_first(folder, _names(prefix, kind)), n_dims)
        for kind, n_dims in (("images", 3), ("labels", 1))
    )
    if len(pixels) != len(labels):
        raise DataError(
            f"{folder}: {prefix} has {len(pixels)} images, but {len(labels)} labels; download them again"
        )
    return ImageBytes(pixels[:, None], labels.astype(np.int64))


def _names(prefix: str, kind: str) -> list[str]:
    n_dims = {"images": 3, "labels": 1}[kind]
    names = [f"{prefix}-{kind}-idx{n_dims}-ubyte", f"{prefix}-{kind}.idx{n_dims}-ubyte"]
    return names + [f"{name}.gz" for name in names]


def _read(path: Path, n_dims: int) -> np.ndarray:
    """Return the values of a file, uint8."""
    content = read_file(path)
    head = 4 + 4 * n_dims
    if len(content) < head or content[:4] != bytes([0, 0, _BYTES, n_dims]):
        raise DataError(
            f"{path}: begins with {content[:4].hex(' ') or 'nothing'}, but must begin with "
            f"{bytes([0, 0, _BYTES, n_dims]).hex(' ')}, bytes in {n_dims} dimensions; download it again"
        )
    shape = np.frombuffer(content, ">u4", n_dims, offset=4).astype(np.int64)
    if len(content) - head != shape.prod() or not shape.prod():
        raise DataError(
            f"{path}: holds {len(content) - head} values, but its head says {' x '.join(map(str, shape))}; "
            "download it again"
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)
