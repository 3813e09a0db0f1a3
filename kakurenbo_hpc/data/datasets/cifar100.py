"""CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32 x 32 pixels in 100 classes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ...config.data_options import DataOptions
from ...config.options import ExpandedPath, option
from ..dataset import DatasetSplits
from ..formats.cifar import CIFAR100, read_cifar
from ..formats.image_bytes import split


class Cifar100(DataOptions):
    """CIFAR-100 with its 100 fine classes, in the binary or the Python version, as it was downloaded."""

    name: Literal["cifar100"] = option(..., "CIFAR-100, read from its binary or Python version.")
    path: ExpandedPath = option(
        ..., "The folder that holds cifar-100-binary, cifar-100-python, or the tar.gz of either."
    )

    def open(self, directory: Path | None = None) -> DatasetSplits:
        """Read the images into memory."""
        return split(self.name, *read_cifar(Path(self.path), CIFAR100), CIFAR100.n_classes)
