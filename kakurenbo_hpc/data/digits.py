"""scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels that need no download."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..draws import bits, key
from ..job import DataOptions
from .source import Data, Request, Source


class Digits(DataOptions):
    """1,437 samples to train on; every fifth of the file, 360, to validate. augment: shift by up to one pixel."""

    name: Literal["digits"]
    augment: bool = True

    def open(self, seed: int) -> Data:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
        held_out = np.arange(len(labels)) % 5 == 0
        return Data(
            train=Shifted(images[~held_out], labels[~held_out], seed, self.augment),
            validation=Shifted(images[held_out], labels[held_out], seed, augment=False),
            n_classes=10,
            shape=(1, 8, 8),
            fingerprint="digits-1797-of-scikit-learn",
        )


class Shifted(Source):
    """Images in memory, moved by -1, 0 or 1 pixel each way, zeros coming in. images: (N, C, H, W); labels: (N,)."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, seed: int, augment: bool):
        self._padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
        self._labels = labels.astype(np.int64)
        self._seed, self._augment = seed, augment

    def __len__(self) -> int:
        return len(self._labels)

    def __getitems__(self, request: Request):
        import torch

        down = right = np.ones(len(request.id), np.int64)
        if request.augment and self._augment:
            draw = bits(key(self._seed, "augment", request.epoch), request.id, request.copy)
            down, right = (draw % np.uint64(3)).astype(np.int64), (draw // np.uint64(3) % np.uint64(3)).astype(np.int64)
        height, width = (size - 2 for size in self._padded.shape[2:])
        rows = down[:, None, None] + np.arange(height)[:, None]
        columns = right[:, None, None] + np.arange(width)
        images = self._padded[request.id[:, None, None], :, rows, columns]  # (k, H, W, C): numpy puts the slice last
        return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(self._labels[request.id])
