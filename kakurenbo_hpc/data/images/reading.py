"""Reading of one image file: decoded in full, or at the scale that its crop needs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...config.augmentations import CenterCrop, RandomResizedCrop, Resize
from ...errors import SampleError
from ..crops import random_box, resized
from .files import exceeds_bytes

if TYPE_CHECKING:
    from PIL import Image


class Reading(NamedTuple):
    """How images are read.

    Attributes:
        random_crop: what is cut out at random for training.
        resize: the shorter side for evaluation.
        center_crop: what is then cut out of the centre.
        scaled: JPEGs are decoded at an eighth, a quarter or half of their size where that is enough for what
            follows, which differs a little from decoding them in full.
    """

    random_crop: RandomResizedCrop | None
    resize: Resize | None
    center_crop: CenterCrop | None
    scaled: bool


def read_for_training(path: bytes, reading: Reading, draw: np.uint64) -> np.ndarray:
    """Return an image under its random crop, (3, H, W) uint8; the whole image where there is none.

    Raises:
        SampleError: it cannot be read.
    """
    crop = reading.random_crop
    if crop is None:
        return _read(path, lambda image: image.convert("RGB"))

    def cut(image: Image.Image) -> Image.Image:
        box = random_box(draw, image.height, image.width, crop)
        return _cut_and_scale(image, box, (crop.size, crop.size), crop.interpolation, reading.scaled)

    return _read(path, cut)


def read_for_evaluation(path: bytes, reading: Reading) -> np.ndarray:
    """Return an image resized and cropped in its centre, (3, H, W) uint8.

    Raises:
        SampleError: it cannot be read.
    """

    def fit(image: Image.Image) -> Image.Image:
        if reading.resize is not None:
            width, height = image.size
            size, whole = resized(height, width, reading.resize.size), (0, 0, height, width)
            image = _cut_and_scale(image, whole, size, reading.resize.interpolation, reading.scaled)
        if reading.center_crop is not None:
            side = reading.center_crop.size
            left, top = round((image.width - side) / 2), round((image.height - side) / 2)
            image = image.crop((left, top, left + side, top + side))
        return image.convert("RGB")

    return _read(path, fit)


def _cut_and_scale(
    image: Image.Image,
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    interpolation: str,
    scaled: bool,
) -> Image.Image:
    """Return a box (top, left, height, width) of an image, scaled to a size (height, width)."""
    from PIL.Image import Resampling

    (top, left, h, w), (height, width) = box, size
    resample = Resampling[interpolation.upper()]
    full_width, full_height = image.size
    if scaled:
        shrink = max(min(h / height, w / width), 1)
        image.draft("RGB", (math.ceil(full_width / shrink), math.ceil(full_height / shrink)))
    across, down = image.width / full_width, image.height / full_height
    image = image.convert("RGB")
    if across == down == 1:
        return image.crop((left, top, left + w, top + h)).resize((width, height), resample)
    edges = (left * across, top * down, (left + w) * across, (top + h) * down)
    return image.resize((width, height), resample, box=edges)


def _read(path: bytes, work: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(os.fsdecode(path)) as image:
            if exceeds_bytes(image):
                raise SampleError(
                    f"{os.fsdecode(path)}: has more than 8 bits a channel, of which the rest would be lost; "
                    "convert it before"
                )
            return np.asarray(work(image)).transpose(2, 0, 1)
    except SampleError:
        raise
    except Exception as problem:  # decoders raise many kinds
        raise SampleError(
            f"{os.fsdecode(path)}: cannot be read as an image ({' '.join(str(problem).split())}); remove it, "
            "or put it right"
        ) from None
