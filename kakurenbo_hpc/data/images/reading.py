"""Decoding of one image: in full, or at the scale that its crop needs; by simplejpeg where it is installed.

simplejpeg and Pillow both decode JPEGs by libjpeg-turbo, to the same bits; Pillow takes longer.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...config.augmentations import CenterCrop, RandomResizedCrop, Resize
from ...errors import SampleError
from ..crops import random_box, resized
from .files import exceeds_bytes

if TYPE_CHECKING:
    from PIL import Image

_SCALES = (8, 4, 2)  # libjpeg-turbo decodes at other scales, such as 5/8, slower than in full


class Reading(NamedTuple):
    """How images are read.

    Attributes:
        random_crop: what is cut out at random for training.
        flip: whether every second random crop, on average, is then mirrored.
        resize: the shorter side for evaluation.
        center_crop: what is then cut out of the centre.
        scaled: JPEGs are decoded at an eighth, a quarter or half of their size where that is enough for what
            follows, which differs a little from decoding them in full.
    """

    random_crop: RandomResizedCrop | None
    flip: bool
    resize: Resize | None
    center_crop: CenterCrop | None
    scaled: bool


def read_for_training(
    content: bytes | bytearray, name: str, reading: Reading, draw: np.uint64, mirrored: bool
) -> np.ndarray:
    """Return an image under its random crop, (H, W, 3) uint8; the whole image where there is none.

    Args:
        content: of its file.
        name: of its file, for messages.
        reading: how.
        draw: for the crop.
        mirrored: whether the crop is mirrored left to right.

    Raises:
        SampleError: it is not an image that can be read.
    """
    crop = reading.random_crop
    if crop is None:
        return read_whole(content, name)

    def cut(source: _Source) -> np.ndarray:
        box = random_box(draw, source.height, source.width, crop)
        image = _cut_and_scale(source, box, (crop.size, crop.size), crop.interpolation, reading.scaled)
        return np.asarray(image)[:, ::-1] if mirrored else np.asarray(image)

    return _read(content, name, cut)


def read_for_evaluation(content: bytes | bytearray, name: str, reading: Reading) -> np.ndarray:
    """Return an image resized and cropped in its centre, (H, W, 3) uint8.

    Raises:
        SampleError: it is not an image that can be read.
    """

    def fit(source: _Source) -> np.ndarray:
        whole = (0, 0, source.height, source.width)
        if reading.resize is None:
            image = source.cut(*whole)
        else:
            size = resized(source.height, source.width, reading.resize.size)
            image = _cut_and_scale(source, whole, size, reading.resize.interpolation, reading.scaled)
        if reading.center_crop is not None:
            side = reading.center_crop.size
            left, top = round((image.width - side) / 2), round((image.height - side) / 2)
            image = image.crop((left, top, left + side, top + side))
        return np.asarray(image)

    return _read(content, name, fit)


def read_whole(content: bytes | bytearray, name: str) -> np.ndarray:
    """Return an image as it is, (H, W, 3) uint8.

    Raises:
        SampleError: it is not an image that can be read.
    """
    return _read(content, name, lambda source: np.asarray(source.cut(0, 0, source.height, source.width)))


class _Jpeg:
    """A JPEG that simplejpeg decodes."""

    def __init__(self, decoder: ModuleType, content: bytes | bytearray):
        self.height, self.width, self.colours, _ = decoder.decode_jpeg_header(content)
        self._decoder, self._content = decoder, content
        self._least: dict[str, int] = {}

    def reduce(self, scale: int) -> int:
        """Decode at 1 / scale of the size; return the scale."""
        self._least = {
            "min_height": math.ceil(self.height / scale),
            "min_width": math.ceil(self.width / scale),
        }
        return scale

    def cut(self, top: int, left: int, bottom: int, right: int) -> Image.Image:
        """Return a box of the image, perhaps reduced."""
        from PIL import Image

        pixels = self._decoder.decode_jpeg(self._content, **self._least)
        return Image.fromarray(pixels[top:bottom, left:right])


class _Picture:
    """An image that Pillow decodes."""

    def __init__(self, image: Image.Image):
        self.height, self.width, self._image = image.height, image.width, image

    def reduce(self, scale: int) -> int:
        """Decode at 1 / scale of the size if it is a JPEG; return the scale."""
        self._image.draft("RGB", (self.width // scale, self.height // scale))
        return round(self.width / self._image.width)

    def cut(self, top: int, left: int, bottom: int, right: int) -> Image.Image:
        """Return a box of the image, perhaps reduced."""
        image = self._image.crop((left, top, right, bottom))
        return image if image.mode == "RGB" else image.convert("RGB")


_Source = _Jpeg | _Picture


def _cut_and_scale(
    source: _Source,
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    interpolation: str,
    scaled: bool,
) -> Image.Image:
    """Return a box (top, left, height, width) of an image, scaled to a size (height, width)."""
    from PIL.Image import Resampling

    (top, left, h, w), (height, width) = box, size
    enough = [scale for scale in _SCALES if scaled and h >= scale * height and w >= scale * width]
    scale = source.reduce(enough[0]) if enough else 1
    # The pixels that the box touches, and its edges among them.
    first_row, first_column = top // scale, left // scale
    image = source.cut(first_row, first_column, -(-(top + h) // scale), -(-(left + w) // scale))
    edges = (
        left / scale - first_column,
        top / scale - first_row,
        (left + w) / scale - first_column,
        (top + h) / scale - first_row,
    )
    return image.resize((width, height), Resampling[interpolation.upper()], box=edges)


@cache
def _jpeg_decoder() -> ModuleType | None:
    try:
        import simplejpeg
    except ImportError:  # not on every machine: it has no wheels for POWER
        return None
    return simplejpeg


def _read(content: bytes | bytearray, name: str, work: Callable[[_Source], np.ndarray]) -> np.ndarray:
    decoder = _jpeg_decoder() if content.startswith(b"\xff\xd8") else None
    if decoder is not None:
        try:
            jpeg = _Jpeg(decoder, content)
            if jpeg.colours in ("YCbCr", "Gray"):
                return work(jpeg)
        except ValueError:  # Pillow says what is wrong, or passes over what is harmless
            pass
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            if exceeds_bytes(image):
                raise SampleError(
                    f"{name}: has more than 8 bits a channel, of which the rest would be lost; convert it "
                    "before"
                )
            return work(_Picture(image))
    except SampleError:
        raise
    except Exception as problem:  # decoders raise many kinds
        reason = " ".join(str(problem).partition(" <_io")[0].split())
        raise SampleError(
            f"{name}: cannot be read as an image ({reason}); remove it, or put it right"
        ) from None
