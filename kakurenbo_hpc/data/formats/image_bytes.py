"""In-memory images of 100 MB and more: kept as uint8, scaled to [0, 1] when read."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..dataset import Dataset, DatasetSplits, ReadRequest

if TYPE_CHECKING:
    import torch


class ImageBytes(NamedTuple):
    """Images of one split: pixels (N, C, H, W) uint8 and labels (N,) int64."""

    pixels: np.ndarray
    labels: np.ndarray


class Images(Dataset):
    """Images in memory."""

    def __init__(self, images: ImageBytes):
        self._pixels, self._labels = images

    def __len__(self) -> int:
        return len(self._labels)

    def labels(self) -> np.ndarray:
        """Return the class of every image."""
        return self._labels

    def __getitems__(self, request: ReadRequest) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images in [0, 1] and classes."""
        import torch

        pixels = torch.from_numpy(self._pixels[request.id])
        return pixels.float().div_(255), torch.from_numpy(self._labels[request.id])


def split(name: str, train: ImageBytes, validation: ImageBytes, n_classes: int) -> DatasetSplits:
    """Return the data set of these images; its fingerprint is a digest of all of them."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (train, validation):
        digest.update(np.ascontiguousarray(part.pixels).data)
        digest.update(part.labels.astype("<i8").tobytes())
    return DatasetSplits(
        train=Images(train),
        validation=Images(validation),
        n_classes=n_classes,
        shape=train.pixels.shape[1:],
        fingerprint=f"{name}-{len(train.labels)}+{len(validation.labels)}-{digest.hexdigest()}",
    )
