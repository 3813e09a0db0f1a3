"""Training augmentation by name, for images: each sample's draws belong to (seed, epoch, id, copy), whoever reads it.

flip: left to right, for one in two. crop: an eighth of the side is padded with zeros, and the size cut out again (He et al.
2016: 4 of 32 pixels). shift: the same by one pixel. cutout: a square of half the side becomes zeros, its centre anywhere
(DeVries and Taylor 2017: 16 of 32 pixels). The other names are torchvision's, as it comes: AutoAugment (ImageNet's policy),
RandAugment, TrivialAugmentWide, RandomErasing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..config.job import DataOptions
from ..core.rng import bits, key
from ..errors import DataError
from .dataset import Dataset, DatasetSplits, ReadRequest, SampleFiles

if TYPE_CHECKING:
    import torch


def augmented(data: DatasetSplits, options: DataOptions, seed: int) -> DatasetSplits:
    """Return the data set whose training images go through ``options.augmentation``, drawn by this seed.

    Raises DataError if its samples are no images (C, H, W) with a class each.
    """
    names = options.augmentation
    if not names:
        return data
    if len(data.shape) != 3 or data.train.labels() is None:
        raise DataError(
            f"data.augmentation is {names}, but {options.name} does not hold images with a class each; set data.augmentation to []"
        )
    colours = sorted(set(names) & {"auto_augment", "rand_augment", "trivial_augment_wide"})
    if colours and data.shape[0] not in (1, 3):
        raise DataError(
            f"data.augmentation holds {colours[0]}, which takes images of 1 or 3 channels, but {options.name} has {data.shape[0]}; "
            "remove it"
        )
    return replace(data, train=Augmented(data.train, names, seed))


class Augmented(Dataset):
    """The images of a source, values in [0, 1], under these augmentations."""

    def __init__(self, source: Dataset, names: Sequence[str], seed: int):
        self._source, self._names, self._seed = source, names, seed

    def __len__(self) -> int:
        return len(self._source)

    def labels(self) -> np.ndarray:
        return self._source.labels()

    def files(self) -> SampleFiles | None:
        return self._source.files()

    def relocate(self, root: Path) -> Augmented:
        return Augmented(self._source.relocate(root), self._names, self._seed)

    def __getitems__(self, request: ReadRequest):
        return self._under(request, self._source.__getitems__(request))

    @property
    def reads_ahead(self) -> bool:
        return self._source.reads_ahead

    def stream(self, requests: Sequence[ReadRequest], device: torch.device):
        import torch

        return map(
            self._under, requests, self._source.stream(requests, torch.device("cpu"))
        )  # where images are augmented

    def _under(
        self, request: ReadRequest, read: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        images, targets = read
        if request.augment:
            for name in self._names:
                purpose = (
                    "augment" if name == "shift" else f"augment, {name}"
                )  # shift was there first: its runs stay what they were
                draw = bits(key(self._seed, purpose, request.epoch), request.id, request.copy)
                images = _OURS[name](images, draw) if name in _OURS else _library(images, draw, name)
        return images, targets


def _flip(images: torch.Tensor, draw: np.ndarray) -> torch.Tensor:
    import torch

    turned = torch.from_numpy(draw % np.uint64(2) == 1)
    return torch.where(turned[:, None, None, None], images.flip(3), images)


def _crop(images: torch.Tensor, draw: np.ndarray) -> torch.Tensor:
    return _moved(images, draw, max(images.shape[3] // 8, 1))


def _shift(images: torch.Tensor, draw: np.ndarray) -> torch.Tensor:
    return _moved(images, draw, 1)


def _cutout(images: torch.Tensor, draw: np.ndarray) -> torch.Tensor:
    import torch

    height, width = images.shape[2:]
    inside = [
        _near(row, size, max(size // 4, 1))
        for row, size in zip(_two(draw, height, width), (height, width), strict=True)
    ]
    hole = torch.from_numpy(inside[0][:, :, None] & inside[1][:, None, :])
    return images.masked_fill(hole[:, None], 0)


def _near(centre: np.ndarray, size: int, reach: int) -> np.ndarray:
    """Return (k, size) bool: the 2 x reach pixels around each centre."""
    distance = np.arange(size) - centre[:, None]
    return (distance >= -reach) & (distance < reach)


def _moved(images: torch.Tensor, draw: np.ndarray, most: int) -> torch.Tensor:
    """Move each image by -most to most pixels each way, zeros coming in."""
    import torch

    height, width = images.shape[2:]
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (most, most), (most, most)))
    down, right = _two(draw, 2 * most + 1, 2 * most + 1)
    rows = down[:, None, None] + np.arange(height)[:, None]
    columns = right[:, None, None] + np.arange(width)
    moved = padded[
        np.arange(len(draw))[:, None, None], :, rows, columns
    ]  # (k, H, W, C): numpy puts the slice last
    return torch.from_numpy(
        moved.transpose(0, 3, 1, 2).copy()
    )  # a view of one channel would pass for channels last


def _two(draw: np.ndarray, first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two numbers of each draw, uniform below ``first`` and ``second``."""
    first, second = np.uint64(first), np.uint64(second)
    return (draw % first).astype(np.int64), (draw // first % second).astype(np.int64)


_OURS = {"flip": _flip, "crop": _crop, "shift": _shift, "cutout": _cutout}


_LIBRARY = {  # torchvision's name, and whether it wants bytes
    "auto_augment": ("AutoAugment", True),
    "rand_augment": ("RandAugment", True),
    "trivial_augment_wide": ("TrivialAugmentWide", True),
    "random_erasing": ("RandomErasing", False),
}


def _library(images: torch.Tensor, draw: np.ndarray, name: str) -> torch.Tensor:
    """Put each image through one of torchvision's transforms, under torch's generator set by its draw, and restored."""
    import torch

    of_bytes = _LIBRARY[name][1]
    before = torch.default_generator.get_state()
    try:
        results = []
        for image, own in zip((images * 255).round().byte() if of_bytes else images, draw, strict=True):
            torch.default_generator.manual_seed(
                int(own >> np.uint64(1))
            )  # torch.manual_seed would reseed GPUs as well
            results.append(_transform(name)(image))
    finally:
        torch.default_generator.set_state(before)
    return torch.stack(results).float() / 255 if of_bytes else torch.stack(results)


@cache
def _transform(name: str):
    from ..core.torchvision_compat import transforms

    return getattr(transforms(), _LIBRARY[name][0])()
