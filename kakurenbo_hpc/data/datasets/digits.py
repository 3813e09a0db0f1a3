"""Handwritten digits of scikit-learn: 1,797 images of 8 x 8 pixels that need no download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...config.augmentation_options import Augmentation
from ...config.data_options import DataOptions
from ...config.options import option
from ...errors import DataError
from ..dataset import Dataset, DatasetSplits, ReadRequest

if TYPE_CHECKING:
    import torch


class Digits(DataOptions):
    """Handwritten digits: 1,437 samples to train on, and every fifth of the file, 360, to validate on."""

    name: Literal["digits"] = option(..., "Handwritten digits of scikit-learn, images of 8 x 8 pixels.")
    augmentation: list[Augmentation] = option(["shift"], "What training images go through, in this order.")

    def open(self, directory: Path | None = None) -> DatasetSplits:
        """Read the images into memory."""
        # The file alone: the import of scikit-learn takes seconds.
        spec = find_spec("sklearn")
        if spec is None or spec.submodule_search_locations is None:
            raise DataError(
                "data.name is digits, but scikit-learn is not installed; run: pip install scikit-learn"
            )
        [package] = spec.submodule_search_locations
        table = np.loadtxt(Path(package, "datasets/data/digits.csv.gz"), np.float32, delimiter=",")
        images, labels = table[:, :-1].reshape(-1, 1, 8, 8) / 16, table[:, -1]
        held_out = np.arange(len(labels)) % 5 == 0
        return DatasetSplits(
            train=Images(images[~held_out], labels[~held_out]),
            validation=Images(images[held_out], labels[held_out]),
            n_classes=10,
            shape=(1, 8, 8),
            fingerprint="digits-1797-of-scikit-learn",
        )


class Images(Dataset):
    """Images in memory."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        """Keep the images.

        Args:
            images: (N, C, H, W) float32.
            labels: (N,), their classes.
        """
        self._images, self._labels = images, labels.astype(np.int64)

    def __len__(self) -> int:
        return len(self._labels)

    def labels(self) -> np.ndarray:
        """Return the class of every image."""
        return self._labels

    def __getitems__(self, request: ReadRequest) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images and classes."""
        import torch

        return torch.from_numpy(self._images[request.id]), torch.from_numpy(self._labels[request.id])
