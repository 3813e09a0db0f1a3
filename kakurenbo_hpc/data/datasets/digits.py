"""scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels that need no download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from ...config.job import Augmentation, DataOptions
from ..dataset import Dataset, DatasetSplits, ReadRequest


class Digits(DataOptions):
    """1,437 samples to train on; every fifth of the file, 360, to validate."""

    name: Literal["digits"]
    augmentation: list[Augmentation] = ["shift"]

    def open(self, directory: Path | None = None) -> DatasetSplits:
        # Its file alone: to import scikit-learn would take every rank two seconds.
        [package] = find_spec("sklearn").submodule_search_locations
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
    """Images in memory. images: (N, C, H, W) float32; labels: (N,)."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self._images, self._labels = images, labels.astype(np.int64)

    def __len__(self) -> int:
        return len(self._labels)

    def labels(self) -> np.ndarray:
        return self._labels

    def __getitems__(self, request: ReadRequest):
        import torch

        return torch.from_numpy(self._images[request.id]), torch.from_numpy(self._labels[request.id])
