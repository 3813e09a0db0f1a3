"""SVHN (Netzer et al. 2011): 73,257 training, 26,032 test and 531,131 extra house numbers, 32 x 32 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from ...config.data_options import DataOptions
from ...config.options import ExpandedPath, option
from ...errors import DataError
from ..dataset import DatasetSplits
from ..formats.image_bytes import ImageBytes, split


class Svhn(DataOptions):
    """SVHN, cropped digits; the files' class 10 is the digit 0."""

    name: Literal["svhn"] = option(..., "SVHN, cropped digits, read from its MATLAB files.")
    path: ExpandedPath = option(
        ..., "The folder that holds train_32x32.mat, test_32x32.mat and perhaps extra_32x32.mat."
    )
    extra: bool = option(False, "Train on extra_32x32.mat as well, after the training images.")

    def open(self, directory: Path | None = None) -> DatasetSplits:
        """Read the images into memory."""
        train, validation = (read_mat(Path(self.path) / f"{name}_32x32.mat") for name in ("train", "test"))
        if self.extra:
            extra = read_mat(Path(self.path) / "extra_32x32.mat")
            train = ImageBytes(
                np.concatenate([train.pixels, extra.pixels]), np.concatenate([train.labels, extra.labels])
            )
        return split(self.name, train, validation, n_classes=10)


def read_mat(path: Path) -> ImageBytes:
    """Return the images of a file: X (32, 32, 3, n) uint8 and y (n, 1), from 1 to 10.

    Raises:
        DataError: it is missing, damaged or of another form.
    """
    from scipy.io import loadmat

    try:
        with open(path, "rb") as file:
            values = loadmat(file, variable_names=("X", "y"))
        pixels, labels = values["X"], values["y"].ravel()
    except FileNotFoundError:
        raise DataError(f"{path}: not found; data.path must name the folder that holds it") from None
    except NotImplementedError:  # so SciPy says of version 7.3, which is HDF5
        raise DataError(f"{path}: has MATLAB version 7.3, but SVHN has 5; download it again") from None
    except Exception as problem:  # a damaged file raises many kinds
        what = f"{type(problem).__name__}: {problem}"
        raise DataError(f"{path}: cannot be read ({what}); download it again") from None
    if pixels.dtype != np.uint8 or pixels.shape != (32, 32, 3, len(labels)) or not len(labels):
        raise DataError(
            f"{path}: X is {pixels.dtype} of shape {pixels.shape} with {len(labels)} classes, but must be "
            "uint8 of shape (32, 32, 3, n) with n classes; download it again"
        )
    if not (1 <= labels.min() and labels.max() <= 10):
        raise DataError(
            f"{path}: classes go from {labels.min()} to {labels.max()}, but are 1 to 10; download it again"
        )
    return ImageBytes(np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)), labels.astype(np.int64) % 10)
