"""Packing of an image folder into large HDF5 files: ``{train,validation}/part_0000.h5`` and so on.

As pixels, a part holds ``inputs`` (n, 3, H, W) uint8 and ``labels`` (n,) int64, contiguous and unfiltered,
with the names of the classes as the attribute ``classes`` of ``labels``. As encoded files, it holds what
``images/packed.py`` reads. A part exists only if it is complete.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from ...errors import DataError, SampleError
from ...rundir.console import bar
from ..images.listing import Listing, list_images, validation_folder
from ..images.packed import ABOUT
from ..images.reading import read_whole
from .output_folder import check_space, claim

PART_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 26  # images that wait to be written


@dataclass(frozen=True)
class Packed:
    """What was packed: images of each split, classes, parts in all, and parts written now.

    ``shape`` is that of every image, or None for encoded files; ``left_out`` are files that are not named as
    images, or lie in no class.
    """

    train: int
    validation: int
    shape: tuple[int, ...] | None
    classes: int
    parts: int
    written: int
    left_out: list[Path]


class _Part(NamedTuple):
    """One HDF5 file, and the rows of the listing that belong in it."""

    path: Path
    rows: np.ndarray


def pack(
    source: Path,
    folder: Path,
    size: int | None = None,
    encoded: bool = False,
    part_bytes: int = PART_BYTES,
) -> Packed:
    """Pack ``source/train/CLASS/*`` and ``source/validation/CLASS/*`` (or ``val``); complete parts are kept.

    Args:
        source: the folder of images.
        folder: for the HDF5 files.
        size: the shorter side is resized to it, and the centre cropped; without it all images must be of one
            size.
        encoded: keep the files as they are, once it is known that each can be decoded.
        part_bytes: largest size of a part.

    Raises:
        DataError: an image cannot be read or does not fit, or the folder cannot be used.
    """
    train = list_images(source, "train")
    validation = list_images(source, validation_folder(source), train.classes)
    splits = {"train": train.rows, "validation": validation.rows}
    form: _Form = _Encoded(source) if encoded else _Pixels(source, size, train.rows[0])
    parts = {
        split: [
            _Part(folder / split / f"part_{number:04d}.h5", rows[start:end])
            for number, (start, end) in enumerate(_cut(form.sizes(rows), part_bytes))
        ]
        for split, rows in splits.items()
    }
    claim(
        folder,
        ABOUT,
        {"images": "-".join(Listing(source, rows, ()).digest() for rows in splits.values())}
        | form.about()
        | ({"parts": {split: len(made) for split, made in parts.items()}} if encoded else {}),
    )
    every = [*chain.from_iterable(parts.values())]
    lacking = [part for part in every if not _is_complete(part, form)]
    check_space(folder, sum(int(form.sizes(part.rows).sum()) for part in lacking))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        written = chain.from_iterable(_write_part(part, train.classes, form, pool) for part in lacking)
        for _ in bar(written, sum(len(part.rows) for part in lacking), "pack"):
            pass
    return Packed(
        train=len(train.rows),
        validation=len(validation.rows),
        shape=None if encoded else form.shape(1)[1:],
        classes=len(train.classes),
        parts=len(every),
        written=len(lacking),
        left_out=train.left_out + validation.left_out,
    )


class _Pixels:
    """Images of one size, decoded."""

    dataset = "inputs"

    def __init__(self, source: Path, size: int | None, first: np.void):
        self._source, self._size = source, size
        self._shape: tuple[int, ...] = ()  # until the first one is read
        self._shape = self.read(first).shape[1:]

    def about(self) -> dict:
        """Return what tells these parts from others of the same images."""
        _, height, width = self._shape
        return {"height": height, "width": width, "size": self._size}

    def shape(self, length: int) -> tuple[int, ...]:
        """Return the shape of so many images."""
        return length, *self._shape

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Return how long each image is along the first axis."""
        return np.ones(len(rows), np.int64)

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """Return the size of each image in bytes."""
        return np.full(len(rows), np.prod(self._shape))

    def read(self, row: np.void) -> np.ndarray:
        """Return an image, (1, 3, H, W) uint8.

        Raises:
            DataError: it cannot be read, or is not of the shape.
        """
        from PIL import Image, ImageOps

        path = _path(self._source, row)
        pixels = read_whole(_content(path), str(path))
        if self._size is not None:
            fitted = ImageOps.fit(Image.fromarray(pixels), (self._size,) * 2, Image.Resampling.BILINEAR)
            pixels = np.asarray(fitted)
        pixels = pixels.transpose(2, 0, 1)
        if self._shape and pixels.shape != self._shape:
            raise DataError(
                f"{path}: has {pixels.shape[1]} x {pixels.shape[2]} pixels, but the first image "
                f"{self._shape[1]} x {self._shape[2]}; add --size, or --encoded"
            )
        return pixels[None]


class _Encoded:
    """Files as they are."""

    dataset = "bytes"

    def __init__(self, source: Path):
        self._source = source

    def about(self) -> dict:
        """Return what tells these parts from others of the same images."""
        return {"encoded": True}

    def shape(self, length: int) -> tuple[int, ...]:
        """Return the shape of so many bytes."""
        return (length,)

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Return how long each image is along the first axis."""
        return rows["size"]

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """Return the size of each image in bytes."""
        return rows["size"]

    def read(self, row: np.void) -> np.ndarray:
        """Return the bytes of an image.

        Raises:
            DataError: it cannot be read, or has changed since it was listed.
        """
        path = _path(self._source, row)
        content = _content(path)
        read_whole(content, str(path))
        if len(content) != row["size"]:
            raise DataError(f"{path}: has changed while images were packed; start again")
        return np.frombuffer(content, np.uint8)


_Form = _Pixels | _Encoded


def _path(source: Path, row: np.void) -> Path:
    return source / os.fsdecode(bytes(row["name"]))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise SampleError(
            f"{path}: cannot be read ({problem.strerror}); remove it, or put it right"
        ) from None


def _cut(sizes: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Yield where runs of images of at most so many bytes, but of at least one image, begin and end."""
    start, ends = 0, np.cumsum(sizes)
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        end = max(int(np.searchsorted(ends, before + most, side="right")), start + 1)
        yield start, end
        start = end


def _is_complete(part: _Part, form: _Form) -> bool:
    try:
        with h5py.File(part.path) as file:
            return (
                file[form.dataset].shape == form.shape(int(form.lengths(part.rows).sum()))
                and np.array_equal(file["labels"], part.rows["label"])
                and (form.dataset == "inputs" or np.array_equal(file["names"], part.rows["name"]))
            )
    except (OSError, KeyError):
        return False


def _write_part(
    part: _Part, classes: Sequence[str], form: _Form, pool: ThreadPoolExecutor
) -> Iterator[np.void]:
    """Write a part; yield the row of each image in it."""
    temporary = part.path.with_name(f".{part.path.name}.part")
    offsets = np.append(0, np.cumsum(form.lengths(part.rows)))
    try:
        part.path.parent.mkdir(exist_ok=True)
        # The oldest version in which the names of many thousand classes fit into an attribute.
        with h5py.File(temporary, "w", libver="v110") as file:
            images = file.create_dataset(form.dataset, form.shape(int(offsets[-1])), np.uint8)
            labels = file.create_dataset("labels", data=part.rows["label"].astype(np.int64))
            # As bytes: names need not be UTF-8, and come back as Python's file functions write them.
            labels.attrs["classes"] = np.array([*map(os.fsencode, classes)], h5py.string_dtype())
            if form.dataset == "bytes":
                file["offsets"], file["names"] = offsets, part.rows["name"]
            for start, end in _cut(form.sizes(part.rows), _CHUNK_BYTES):
                rows = part.rows[start:end]
                images[offsets[start] : offsets[end]] = np.concatenate(list(pool.map(form.read, rows)))
                yield from rows
        os.replace(temporary, part.path)
    except OSError as problem:
        raise DataError(f"{part.path}: cannot be written ({problem})") from None
