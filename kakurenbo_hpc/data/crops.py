"""Geometry of resizing and cropping: sizes and boxes, computed from image sizes before decoding."""

from __future__ import annotations

import math

import numpy as np

from ..config.augmentation_options import RandomResizedCrop

_TRIES = 10


def resized(height: int, width: int, shorter: int) -> tuple[int, int]:
    """Return height and width of an image scaled to a shorter side; the longer one is rounded down.

    Source: torchvision's Resize.
    """
    if height <= width:
        return shorter, shorter * width // height
    return shorter * height // width, shorter


def random_box(
    draw: np.uint64, height: int, width: int, crop: RandomResizedCrop
) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a box of random area and shape in an image.

    After ten boxes that do not fit, it is the largest central one of an allowed shape.

    Source: torchvision's RandomResizedCrop, with draws of our own.

    Args:
        draw: (), uint64, of the sample.
        height: of the image, in pixels.
        width: of the image, in pixels.
        crop: allowed areas and shapes.
    """
    rng = np.random.Generator(np.random.PCG64(int(draw)))
    least, most = crop.scale
    low, high = (math.log(ratio) for ratio in crop.ratio)
    for _ in range(_TRIES):
        area = height * width * rng.uniform(least, most)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    smallest, largest = crop.ratio
    h, w = height, width
    if width / height < smallest:
        h = round(width / smallest)
    elif width / height > largest:
        w = round(height * largest)
    return (height - h) // 2, (width - w) // 2, h, w
