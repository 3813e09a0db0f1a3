"""Packing of an image folder into large HDF5 files: ``{train,validation}/part_0000.h5`` and so on.

A part holds ``inputs`` (n, 3, H, W) uint8 and ``labels`` (n,) int64, contiguous and unfiltered, with the
names of the classes as the attribute ``classes`` of ``labels``. A part exists only if it is complete.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from PIL import Image, ImageOps

from ...errors import DataError
from ...rundir.console import bar
from ..images.files import SUFFIXES, check_spelling, exceeds_bytes, files_below
from .output_folder import check_space, claim

PART_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 26  # decoded images that wait to be written


@dataclass(frozen=True)
class Packed:
    """What was packed: images of each split, their size, classes, parts in all, and parts written now.

    ``left_out`` are files that are not named as images, or lie in no class.
    """

    train: int
    validation: int
    height: int
    width: int
    classes: int
    parts: int
    written: int
    left_out: list[Path]


class _Images(NamedTuple):
    """Images and the class of each, and the files between them that are none."""

    paths: Sequence[Path]
    labels: Sequence[int]
    left_out: Sequence[Path] = ()


class _Part(NamedTuple):
    """One HDF5 file and the images that belong in it."""

    path: Path
    images: _Images


def pack(source: Path, folder: Path, size: int | None = None, part_bytes: int = PART_BYTES) -> Packed:
    """Pack ``source/train/CLASS/*`` and ``source/validation/CLASS/*`` (or ``val``); complete parts are kept.

    Args:
        source: the folder of images.
        folder: for the HDF5 files.
        size: the shorter side is resized to it, and the centre cropped; without it all images must be of one
            size.
        part_bytes: largest size of a part.

    Raises:
        DataError: an image cannot be read or does not fit, or the folder cannot be used.
    """
    classes = _class_names(source / "train")
    check_spelling(source / "train", classes)
    if not classes:
        raise DataError(
            f"{source / 'train'}: found no folders there; images are expected in {source / 'train'}/CLASS/"
        )
    validation = source / (
        "val" if (source / "val").is_dir() and not (source / "validation").is_dir() else "validation"
    )
    splits = {
        "train": _list_images(source / "train", classes),
        "validation": _list_images(validation, classes),
    }
    fingerprint = _fingerprint(source, chain.from_iterable(images.paths for images in splits.values()))
    shape = _decode(splits["train"].paths[0], size).shape
    _, height, width = shape
    parts = list(
        chain.from_iterable(
            _split_parts(folder / split, images, part_bytes // (3 * height * width))
            for split, images in splits.items()
        )
    )
    lacking = [part for part in parts if not _is_complete(part, shape)]
    n_lacking = sum(len(part.images.labels) for part in lacking)
    check_space(folder, n_lacking * 3 * height * width)
    claim(folder, "packed.json", {"images": fingerprint, "height": height, "width": width, "size": size})
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        written = chain.from_iterable(_write_part(part, classes, shape, size, pool) for part in lacking)
        for _ in bar(written, n_lacking, "pack"):
            pass
    return Packed(
        len(splits["train"].labels),
        len(splits["validation"].labels),
        height,
        width,
        len(classes),
        len(parts),
        len(lacking),
        list(chain.from_iterable(images.left_out for images in splits.values())),
    )


def _class_names(folder: Path) -> list[str]:
    """Return the names of the folders in a split, sorted."""
    try:
        entries = list(os.scandir(folder))
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as problem:
        raise DataError(
            f"{folder}: cannot be read ({problem.strerror}); give one that holds train/CLASS/ and "
            "validation/CLASS/"
        ) from None


def _list_images(folder: Path, classes: list[str]) -> _Images:
    """Return the images of a split, by class and name."""
    number, paths, labels = {name: i for i, name in enumerate(classes)}, [], []
    names, left_out = _class_names(folder), []
    check_spelling(folder, names, classes)
    for name in names:
        if name not in number:
            raise DataError(
                f"{folder / name}: there is no such class to train on; remove it, or add "
                f"{folder.parent / 'train' / name}"
            )
        files = sorted(files_below(folder / name))
        found = [path for path in files if path.suffix.lower() in SUFFIXES]
        left_out += [path for path in files if path.suffix.lower() not in SUFFIXES]
        if not found:
            raise DataError(f"{folder / name}: found no images there; add some, or remove it")
        paths += found
        labels += [number[name]] * len(found)
    if not paths:
        raise DataError(f"{folder}: found no folders there; images are expected in {folder}/CLASS/")
    left_out += [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    return _Images(paths, labels, left_out)


def _fingerprint(source: Path, images: Iterable[Path]) -> str:
    """Return a digest of the names and sizes of the images."""
    digest = hashlib.blake2b(digest_size=8)
    for path in images:
        try:
            digest.update(
                f"{path.relative_to(source)} {path.stat().st_size}\n".encode("utf-8", "surrogateescape")
            )
        except OSError as problem:
            raise DataError(
                f"{path}: cannot be read ({problem.strerror}); remove it, or put it right"
            ) from None
    return digest.hexdigest()


def _split_parts(folder: Path, images: _Images, rows: int) -> Iterator[_Part]:
    """Yield the parts of a split, of at most so many images, but at least one."""
    rows = max(rows, 1)
    for number, start in enumerate(range(0, len(images.labels), rows)):
        part = slice(start, start + rows)
        yield _Part(folder / f"part_{number:04d}.h5", _Images(images.paths[part], images.labels[part]))


def _is_complete(part: _Part, shape: tuple[int, ...]) -> bool:
    try:
        with h5py.File(part.path) as file:
            return file["inputs"].shape == (len(part.images.labels), *shape) and np.array_equal(
                file["labels"], part.images.labels
            )
    except (OSError, KeyError):
        return False


def _write_part(
    part: _Part, classes: list[str], shape: tuple[int, ...], size: int | None, pool: ThreadPoolExecutor
) -> Iterator[Path]:
    """Write a part; yield each image in it."""
    temporary = part.path.with_name(f".{part.path.name}.part")
    chunk = max(_CHUNK_BYTES // int(np.prod(shape)), 1)
    n = len(part.images.labels)
    try:
        part.path.parent.mkdir(exist_ok=True)
        # The oldest version in which the names of many thousand classes fit into an attribute.
        with h5py.File(temporary, "w", libver="v110") as file:
            inputs = file.create_dataset("inputs", (n, *shape), np.uint8)
            labels = file.create_dataset("labels", data=np.array(part.images.labels, np.int64))
            # As bytes: names need not be UTF-8, and come back as Python's file functions write them.
            labels.attrs["classes"] = np.array([*map(os.fsencode, classes)], h5py.string_dtype())
            for start in range(0, n, chunk):
                paths = part.images.paths[start : start + chunk]
                inputs[start : start + len(paths)] = list(
                    pool.map(partial(_decode, size=size, shape=shape), paths)
                )
                yield from paths
        os.replace(temporary, part.path)
    except OSError as problem:
        raise DataError(f"{part.path}: cannot be written ({problem})") from None


def _decode(path: Path, size: int | None, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return an image, (3, H, W) uint8.

    Raises:
        DataError: it cannot be read, or is not of the shape.
    """
    try:
        with Image.open(path) as image:
            if exceeds_bytes(image):
                raise DataError(
                    f"{path}: has more than 8 bits a channel, of which the rest would be lost; convert it "
                    "before"
                )
            image = image.convert("RGB")
    except DataError:
        raise
    except Exception as problem:  # decoders raise many kinds
        raise DataError(
            f"{path}: cannot be read as an image ({' '.join(str(problem).split())}); remove it, or put it "
            "right"
        ) from None
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image).transpose(2, 0, 1)
    if shape is not None and pixels.shape != shape:
        raise DataError(
            f"{path}: has {pixels.shape[1]} x {pixels.shape[2]} pixels, but the first image {shape[1]} x "
            f"{shape[2]}; add --size"
        )
    return pixels
