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

from ...config.augmentation_options import CenterCrop, RandomResizedCrop, Resize
from ...errors import SampleError
from ..crops import random_box, resized
from .files import exceeds_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

_SCALES = (8, 4, 2)  # libjpeg-turbo decodes at other scales, such as 5/8, slower than in full


class Reading(NamedTuple):
    """How images are read.

    Attributes:
        random_crop: what is cut out at random for training.
        flip: whether every second random crop, on average, is then mirrored.
        resize: the shorter side for evaluation.
        center_crop: what is then cut out of the centre.
        scaled: JPEGs are decoded at an eighth, a quarter or half of their size where that is enough for what
            follows, and others scaled by torch instead of Pillow; both differ a little.
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
        return image[:, ::-1] if mirrored else image

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
        return image if reading.center_crop is None else _center(image, reading.center_crop.size)

    return _read(content, name, fit)


def read_whole(content: bytes | bytearray, name: str) -> np.ndarray:
    """Return an image as it is, (H, W, 3) uint8.

    Raises:
        SampleError: it is not an image that can be read.
    """
    return _read(content, name, lambda source: source.cut(0, 0, source.height, source.width))


def _center(image: np.ndarray, side: int) -> np.ndarray:
    """Return a square from the centre of an image, black where that has nothing."""
    from PIL import Image

    height, width, _ = image.shape
    left, top = round((width - side) / 2), round((height - side) / 2)
    return np.asarray(Image.fromarray(image).crop((left, top, left + side, top + side)))


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

    def cut(self, top: int, left: int, bottom: int, right: int) -> np.ndarray:
        """Return a box of the image, perhaps reduced."""
        return self._decoder.decode_jpeg(self._content, **self._least)[top:bottom, left:right]


class _Picture:
    """An image that Pillow decodes."""

    def __init__(self, image: Image):
        self.height, self.width, self._image = image.height, image.width, image

    def reduce(self, scale: int) -> int:
        """Decode at 1 / scale of the size if it is a JPEG; return the scale."""
        self._image.draft("RGB", (self.width // scale, self.height // scale))
        return round(self.width / self._image.width)

    def cut(self, top: int, left: int, bottom: int, right: int) -> np.ndarray:
        """Return a box of the image, perhaps reduced."""
        image = self._image.crop((left, top, right, bottom))
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))  # torch wants to write


_Source = _Jpeg | _Picture


def _cut_and_scale(
    source: _Source,
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    interpolation: str,
    scaled: bool,
) -> np.ndarray:
    """Return a box (top, left, height, width) of an image, scaled to a size (height, width)."""
    (top, left, h, w), (height, width) = box, size
    enough = [scale for scale in _SCALES if scaled and h >= scale * height and w >= scale * width]
    scale = source.reduce(enough[0]) if enough else 1
    # The pixels that the box touches, and its edges among them.
    first_row, first_column = top // scale, left // scale
    pixels = source.cut(first_row, first_column, -(-(top + h) // scale), -(-(left + w) // scale))
    if scaled and scale == 1:
        return _scale_by_torch(pixels, size, interpolation)
    edges = (
        left / scale - first_column,
        top / scale - first_row,
        (left + w) / scale - first_column,
        (top + h) / scale - first_row,
    )
    return _scale_by_pillow(pixels, edges, size, interpolation)


def _scale_by_pillow(
    pixels: np.ndarray, edges: tuple[float, float, float, float], size: tuple[int, int], interpolation: str
) -> np.ndarray:
    """Return what lies between edges (left, top, right, bottom), scaled to a size (height, width)."""
    from PIL import Image

    how = Image.Resampling[interpolation.upper()]
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], how, box=edges))


def _scale_by_torch(pixels: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Return all of it, scaled: Pillow's filter in a third of the time, where a value may differ by one."""
    import torch
    from torch.nn.functional import interpolate

    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    return interpolate(image, size=size, mode=interpolation, antialias=True)[0].permute(1, 2, 0).numpy()


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
