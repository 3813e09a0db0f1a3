"""Training augmentation of images by name; the draws of a sample are keyed by (seed, epoch, id, copy).

``flip`` mirrors left to right, every second image on average. ``crop`` pads with zeros by an eighth of the
width and cuts the size out again (He et al. 2016: 4 of 32 pixels). ``shift`` does the same with one pixel.
``cutout`` sets a square of half the side to zero, centred anywhere (DeVries and Taylor 2017: 16 of 32
pixels). The other names are torchvision's with their defaults: AutoAugment (ImageNet's policy), RandAugment,
TrivialAugmentWide, RandomErasing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config.job import DataOptions
from ..core.rng import bits, key
from ..errors import DataError
from .dataset import Dataset, DatasetSplits, DatasetView, ReadRequest

if TYPE_CHECKING:
    import torch


def augment(data: DatasetSplits, options: DataOptions, seed: int) -> DatasetSplits:
    """Return the data set with ``options.augmentation`` on its training images, drawn by the run's seed.

    Raises:
        DataError: the samples are not images (C, H, W) with a class each.
    """
    names = options.augmentation
    if not names:
        return data
    if len(data.shape) != 3 or data.train.labels() is None:
        raise DataError(
            f"data.augmentation is {names}, but {options.name} does not hold images with a class each; "
            "set data.augmentation to []"
        )
    colours = sorted(set(names) & {"auto_augment", "rand_augment", "trivial_augment_wide"})
    if colours and data.shape[0] not in (1, 3):
        raise DataError(
            f"data.augmentation holds {colours[0]}, which takes images of 1 or 3 channels, but "
            f"{options.name} has "
            f"{data.shape[0]}; remove it"
        )
    return replace(data, train=Augmented(data.train, names, seed))


class Augmented(DatasetView):
    """Images with values in [0, 1] under training augmentation, in the order of the names."""

    def __init__(self, base: Dataset, names: Sequence[str], seed: int):
        super().__init__(base)
        self._names, self._seed = names, seed

    def stream(
        self, requests: Sequence[ReadRequest], device: torch.device
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield batches on the CPU, where images are augmented."""
        import torch

        return super().stream(requests, torch.device("cpu"))

    def convert(
        self, request: ReadRequest, batch: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment the images where the request says so."""
        images, targets = batch
        for name in self._names if request.augment else ():
            # shift was the first augmentation: runs that use it keep their draws.
            purpose = "augment" if name == "shift" else f"augment, {name}"
            draw = bits(key(self._seed, purpose, request.epoch), request.id, request.copy)
            images = _OURS[name](images, draw) if name in _OURS else _torchvision(images, draw, name)
        return images, targets


def _flip(images: torch.Tensor, draw: np.ndarray) -> torch.Tensor:
    import torch

    mirrored = torch.from_numpy(draw % np.uint64(2) == 1)
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def _crop(images: torch.Tensor, draw: np.ndarray) -> torch.Tensor:
    return _translate(images, draw, max(images.shape[3] // 8, 1))


def _shift(images: torch.Tensor, draw: np.ndarray) -> torch.Tensor:
    return _translate(images, draw, 1)


def _cutout(images: torch.Tensor, draw: np.ndarray) -> torch.Tensor:
    import torch

    height, width = images.shape[2:]
    row, column = _two_below(draw, height, width)
    in_rows = _near(row, height, max(height // 4, 1))
    in_columns = _near(column, width, max(width // 4, 1))
    hole = torch.from_numpy(in_rows[:, :, None] & in_columns[:, None, :])
    return images.masked_fill(hole[:, None], 0)


def _near(centre: np.ndarray, size: int, reach: int) -> np.ndarray:
    """Return (k, size) bool: the 2 x reach pixels around each centre."""
    distance = np.arange(size) - centre[:, None]
    return (distance >= -reach) & (distance < reach)


def _translate(images: torch.Tensor, draw: np.ndarray, limit: int) -> torch.Tensor:
    """Move each image by -limit to limit pixels down and to the right; zeros come in."""
    import torch

    height, width = images.shape[2:]
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (limit, limit), (limit, limit)))
    down, right = _two_below(draw, 2 * limit + 1, 2 * limit + 1)
    rows = down[:, None, None] + np.arange(height)[:, None]
    columns = right[:, None, None] + np.arange(width)
    # NumPy puts the slice last: (k, H, W, C).
    moved = padded[np.arange(len(draw))[:, None, None], :, rows, columns]
    # Copied: a view of one channel would pass for channels last.
    return torch.from_numpy(moved.transpose(0, 3, 1, 2).copy())


def _two_below(draw: np.ndarray, first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two int64 numbers of each draw, uniform below ``first`` and ``second``."""
    n, m = np.uint64(first), np.uint64(second)
    return (draw % n).astype(np.int64), (draw // n % m).astype(np.int64)


_OURS = {"flip": _flip, "crop": _crop, "shift": _shift, "cutout": _cutout}


_TORCHVISION = {  # torchvision's name, and whether it takes bytes
    "auto_augment": ("AutoAugment", True),
    "rand_augment": ("RandAugment", True),
    "trivial_augment_wide": ("TrivialAugmentWide", True),
    "random_erasing": ("RandomErasing", False),
}


def _torchvision(images: torch.Tensor, draw: np.ndarray, name: str) -> torch.Tensor:
    """Apply one of torchvision's transforms to each image, with torch's generator seeded by its draw."""
    import torch

    takes_bytes = _TORCHVISION[name][1]
    state = torch.default_generator.get_state()
    try:
        results = []
        for image, seed in zip((images * 255).round().byte() if takes_bytes else images, draw, strict=True):
            # torch.manual_seed would reseed the GPUs as well.
            torch.default_generator.manual_seed(int(seed >> np.uint64(1)))
            results.append(_transform(name)(image))
    finally:
        torch.default_generator.set_state(state)
    return torch.stack(results).float() / 255 if takes_bytes else torch.stack(results)


@cache
def _transform(name: str) -> Any:
    from ..core.torchvision_compat import transforms

    return getattr(transforms(), _TORCHVISION[name][0])()
