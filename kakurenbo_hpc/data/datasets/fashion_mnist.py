"""Fashion-MNIST (Xiao et al. 2017): 60,000 training and 10,000 test images of clothes, 28 x 28 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ...config.data_options import DataOptions
from ...config.options import ExpandedPath, option
from ..dataset import DatasetSplits
from ..formats.idx import read_idx_images
from ..formats.image_bytes import split


class FashionMnist(DataOptions):
    """Fashion-MNIST in its IDX files, compressed or not."""

    name: Literal["fashion_mnist"] = option(..., "Fashion-MNIST, read from its IDX files.")
    path: ExpandedPath = option(
        ..., "The folder of the four IDX files, compressed or not; or the one that holds FashionMNIST/raw."
    )

    def open(self, directory: Path | None = None) -> DatasetSplits:
        """Read the images into memory."""
        return split(self.name, *read_idx_images(Path(self.path), ("FashionMNIST/raw",)), n_classes=10)
