"""CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32 x 32 pixels in 10 classes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ...config.data_options import DataOptions
from ...config.options import ExpandedPath, option
from ..dataset import DatasetSplits
from ..formats.cifar import CIFAR10, read_cifar
from ..formats.image_bytes import split


class Cifar10(DataOptions):
    """CIFAR-10 in the binary or the Python version, as it was downloaded."""

    name: Literal["cifar10"] = option(..., "CIFAR-10, read from its binary or Python version.")
    path: ExpandedPath = option(
        ..., "The folder that holds cifar-10-batches-bin, cifar-10-batches-py, or the tar.gz of either."
    )

    def open(self, directory: Path | None = None) -> DatasetSplits:
        """Read the images into memory."""
        return split(self.name, *read_cifar(Path(self.path), CIFAR10), CIFAR10.n_classes)
