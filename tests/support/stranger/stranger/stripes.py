"""Stripes: images of one direction a class, drawn by id; a data set of another package."""

import numpy as np

from kakurenbo_hpc.config.data_options import DataOptions
from kakurenbo_hpc.config.options import Count, option
from kakurenbo_hpc.data.dataset import Dataset, DatasetSplits


class Stripes(DataOptions):
    """Two classes of stripes, across and down."""

    samples: Count = option(120, "Samples to train on; a fifth as many to validate.")

    def open(self, directory=None):
        return DatasetSplits(
            train=Images(0, self.samples),
            validation=Images(10_000_000, -(-self.samples // 5)),
            n_classes=2,
            shape=(1, 8, 8),
            fingerprint=f"stripes-{self.samples}",
        )


class Images(Dataset):
    def __init__(self, first, n):
        self._first, self._n = first, n

    def __len__(self):
        return self._n

    def labels(self):
        return np.arange(self._n, dtype=np.int64) % 2

    def __getitems__(self, request):
        import torch

        images = np.stack([self._image(int(number)) for number in request.id])
        return torch.from_numpy(images), torch.from_numpy(self.labels()[request.id])

    def _image(self, number):
        stripes = np.sin(np.arange(8) + self._first + number).astype(np.float32)
        image = np.tile(stripes, (8, 1))
        return (image if number % 2 else image.T)[None].copy()


class Shuffled(Stripes):
    """Breaks a law: its samples depend on what was read before."""

    def open(self, directory=None):
        splits = super().open(directory)
        return DatasetSplits(Drifting(0, self.samples), splits.validation, 2, (1, 8, 8), "drifting")


class Drifting(Images):
    _reads = 0

    def _image(self, number):
        self._reads += 1
        return super()._image(number) + np.float32(self._reads)
