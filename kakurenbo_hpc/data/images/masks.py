"""Images with masks: reading of a pair of files, and the steps that change both together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ...config.augmentation_options import Flip, RandomCrop, RandomScale, Resize
from ...errors import SampleError
from ..crops import resized
from .files import exceeds_bytes

if TYPE_CHECKING:
    import torch
    from PIL import Image

    Pair = tuple[torch.Tensor, torch.Tensor]  # image (3, H, W) and mask (H, W), uint8

IGNORED = 255  # in a mask of classes
_NO_CLASS = 254
_TRIES = 10


def class_table(n_classes: int, first_label: int, ignore_label: int | None) -> np.ndarray:
    """Return the class of each label that a mask's file may hold, (256,) uint8.

    Args:
        n_classes: at most 254.
        first_label: of class 0; the others follow.
        ignore_label: of pixels that count nowhere.
    """
    table = np.full(256, _NO_CLASS, np.uint8)
    table[first_label : first_label + n_classes] = np.arange(n_classes)
    if ignore_label is not None:
        table[ignore_label] = IGNORED
    return table


def read_pair(image_path: str, mask_path: str, table: np.ndarray) -> Pair:
    """Return an image and its mask of classes.

    Raises:
        SampleError: one cannot be read, they differ in size, or a label is no class.
    """
    import torch

    image, labels = _read(image_path, _colours), _read(mask_path, _labels)
    if labels.shape != image.shape[1:]:
        raise SampleError(
            f"{mask_path}: is of {_size(labels)} pixels, but its image {image_path} of {_size(image[0])}; "
            "put it right"
        )
    mask = table[labels]
    if (wrong := labels[mask == _NO_CLASS]).size:
        known = np.flatnonzero(table < _NO_CLASS)
        raise SampleError(
            f"{mask_path}: holds the label {wrong[0]}, but classes are {known[0]} to {known[-1]}; mend the "
            "mask, or set data.classes, data.first_label or data.ignore_label"
        )
    return torch.from_numpy(image.copy()), torch.from_numpy(mask)


def _size(array: np.ndarray) -> str:
    return f"{array.shape[0]} x {array.shape[1]}"


def _read(path: str, work: Callable[[Image.Image, str], np.ndarray]) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return work(image, path)
    except SampleError:
        raise
    except Exception as problem:  # decoders raise many kinds
        raise SampleError(
            f"{path}: cannot be read as an image ({' '.join(str(problem).split())}); remove it, or put it "
            "right"
        ) from None


def _colours(image: Image.Image, path: str) -> np.ndarray:
    if exceeds_bytes(image):
        raise SampleError(
            f"{path}: has more than 8 bits a channel, of which the rest would be lost; convert it before"
        )
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def _labels(image: Image.Image, path: str) -> np.ndarray:
    if image.mode not in ("L", "P", "1"):
        raise SampleError(
            f"{path}: is of Pillow's mode {image.mode}, but a mask holds one label of 8 bits a pixel; "
            "convert it before"
        )
    return np.asarray(image).astype(np.uint8)


def _random_scale(pair: Pair, draw: np.uint64, options: RandomScale) -> Pair:
    from ...core.torchvision_compat import transforms

    functional, modes = transforms().functional, transforms().InterpolationMode
    image, mask = pair
    height, width = mask.shape
    low, high = options.scale
    factor = np.random.Generator(np.random.PCG64(int(draw))).uniform(low, high)
    factor *= (options.shorter or min(height, width)) / min(height, width)
    size = [max(round(side * factor), 1) for side in (height, width)]
    return (
        functional.resize(image, size, antialias=True),
        functional.resize(mask[None], size, modes.NEAREST)[0],
    )


def _random_crop(pair: Pair, draw: np.uint64, options: RandomCrop) -> Pair:
    """Cut out a square whose most frequent class has at most its share of the pixels that count.

    Source: mmsegmentation's RandomCrop, which takes the last of ten squares that all have more, not the best.
    """
    from torch.nn.functional import pad

    image, mask = pair
    missing = (0, max(options.size - mask.shape[1], 0), 0, max(options.size - mask.shape[0], 0))
    image, mask = pad(image, missing), pad(mask, missing, value=IGNORED)
    rng = np.random.Generator(np.random.PCG64(int(draw)))
    best: tuple[float, int, int] = (np.inf, 0, 0)
    for _ in range(_TRIES):
        top, left = (int(rng.integers(side - options.size + 1)) for side in mask.shape)
        share = _largest_share(mask[top : top + options.size, left : left + options.size].numpy())
        best = min(best, (share, top, left))
        if share <= options.max_share:
            break
    _, top, left = best
    rows, columns = slice(top, top + options.size), slice(left, left + options.size)
    return image[:, rows, columns], mask[rows, columns]


def _largest_share(mask: np.ndarray) -> float:
    """Return the share of the most frequent class among the pixels that count; infinite if none does."""
    counts = np.bincount(mask.ravel(), minlength=IGNORED + 1)[:IGNORED]
    return counts.max() / counts.sum() if counts.any() else np.inf


def _flip(pair: Pair, draw: np.uint64, options: Flip) -> Pair:
    image, mask = pair
    return (image.flip(2), mask.flip(1)) if draw % np.uint64(2) else pair


def _resize(pair: Pair, draw: np.uint64, options: Resize) -> Pair:
    """Scale the image alone: a prediction is compared with the mask as it is."""
    from ...core.torchvision_compat import transforms

    image, mask = pair
    mode = transforms().InterpolationMode(options.interpolation)
    height, width = mask.shape
    size = list(resized(height, width, options.size))
    return transforms().functional.resize(image, size, mode, antialias=True), mask


JOINT_STEPS: dict[str, Callable[..., Pair]] = {
    "random_scale": _random_scale,
    "random_crop": _random_crop,
    "flip": _flip,
    "resize": _resize,
}
"""What is done to image and mask while they are read, by the name of the step."""
