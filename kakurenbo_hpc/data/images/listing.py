"""Listing of an image folder: made once by rank 0, kept in a file, and read by every rank by id.

A listing is an array with one row per image: name relative to the data set's folder, class, size and time of
last change. It is kept as ``manifest/{train,validation}_images.npy``, beside the data or, if that is
read-only, in the run directory, and mapped into memory: no rank holds a list of a million names. Later starts
look only at the folders, whose time of change reveals new and removed files, and at a thousand files.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import DataError
from ...rundir.atomic_io import write_whole
from ...rundir.console import bar
from ..dataset import SampleFiles
from .files import SUFFIXES, check_spelling, files_below

ANNOTATIONS = "val_annotations.txt"  # the classes of Tiny-ImageNet's validation images
_N_CHECKED = 1000  # files that a later start looks at
_THREADS = 16  # a parallel file system serves many requests at once


class _Image(NamedTuple):
    name: bytes
    label: int
    size: int
    changed: int


@dataclass(frozen=True)
class Listing:
    """The images of one split.

    Attributes:
        root: the folder that names are relative to.
        kept: the array or, where it could be kept, its file: rows of name (bytes), label (int32), size
            (int64, bytes) and changed (int64, ns).
        classes: names of the classes, in the order of their labels.
    """

    root: Path
    kept: Path | np.ndarray
    classes: tuple[str, ...]

    def rows(self) -> np.ndarray:
        """Return the array, mapped into memory where it is a file."""
        return np.load(self.kept, mmap_mode="r") if isinstance(self.kept, Path) else self.kept

    def digest(self) -> str:
        """Return a digest of names, classes and sizes, which changes when ids would mean other images."""
        rows, digest = self.rows(), hashlib.blake2b(digest_size=8)
        for column in ("name", "label", "size"):
            digest.update(np.ascontiguousarray(rows[column]).tobytes())
        return digest.hexdigest()


class Names(Sequence[str]):
    """Names of the files of a listing, decoded one by one."""

    def __init__(self, listing: Listing):
        self._rows = listing.rows()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row):  # type: ignore[no-untyped-def]  # no caller takes slices
        """Return one name; bytes that are not UTF-8 stay what they are, as Python's file functions do it."""
        return os.fsdecode(bytes(self._rows["name"][row]))


def files_of(listing: Listing) -> SampleFiles:
    """Return the file of every image."""
    rows = listing.rows()
    return SampleFiles(listing.root, Names(listing), rows["size"], rows["changed"])


def find_images(
    root: Path, split: str, classes: Sequence[str] | None = None, directory: Path | None = None
) -> Listing:
    """Return the listing of ``root / split``: the kept one, or a new one to keep.

    Args:
        root: the folder of the data set.
        split: of which ``CLASS/`` holds the images, in folders of any depth; or Tiny-ImageNet's ``val``.
        classes: of the training images; those of the folders if not given.
        directory: where the listing is kept if not beside the data.

    Raises:
        DataError: a folder is missing or empty, a class is unknown, or a kept listing does not fit the files.
    """
    name = "train" if classes is None else "validation"
    places = [root / "manifest" / f"{name}_images.npy"]
    places += [directory / "manifest" / f"{name}_images.npy"] if directory is not None else []
    for place in places:
        if (listing := _load(place, root, split)) is not None:
            return listing
    folders: dict[str, int] = {}
    names = tuple(_class_folders(root / split)) if classes is None else tuple(classes)
    images = list(_list_split(root, split, names, folders))
    width = max(len(image.name) for image in images)
    rows = np.array(
        images, [("name", f"S{width}"), ("label", np.int32), ("size", np.int64), ("changed", np.int64)]
    )
    return Listing(root, _keep(rows, {"classes": names, "folders": folders}, places), names)


def _list_split(root: Path, split: str, classes: Sequence[str], folders: dict[str, int]) -> Iterator[_Image]:
    """Yield the images by class and name, and note when each folder was last changed."""
    folder = root / split
    number = {name: label for label, name in enumerate(classes)}
    if (folder / ANNOTATIONS).exists():
        yield from _list_annotated(root, folder, number, folders)
        return
    found = _class_folders(folder)
    check_spelling(folder, found, classes)
    folders[split] = folder.stat().st_mtime_ns
    for name in found:
        if name not in number:
            raise DataError(
                f"{folder / name}: there is no such class to train on; remove it, or add "
                f"{root / 'train' / name}"
            )
    with ThreadPoolExecutor(_THREADS) as pool:
        listed = pool.map(lambda name: _list_class(root, folder / name, number[name]), found)
        for images, times in bar(listed, len(found), "list"):
            folders.update(times)
            yield from images


def _class_folders(folder: Path) -> list[str]:
    """Return the names of the folders in a split, sorted.

    Raises:
        DataError: it cannot be listed, or holds none.
    """
    try:
        found = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    except OSError as problem:
        raise DataError(
            f"{folder}: cannot be listed ({problem.strerror}); data.path must name a folder with "
            "train/CLASS/ and val/CLASS/ in it"
        ) from None
    if not found:
        raise DataError(f"{folder}: found no folders there; images are expected in {folder}/CLASS/")
    return found


def _list_class(root: Path, folder: Path, label: int) -> tuple[list[_Image], dict[str, int]]:
    """Return the images below a folder, and when each folder that holds some was last changed."""
    images, places = [], {folder}
    for path in files_below(folder):
        if path.suffix.lower() in SUFFIXES:
            images.append(_image(path, path.relative_to(root), label))
            places.update(place for place in path.parents if place.is_relative_to(folder))
    if not images:
        raise DataError(f"{folder}: found no images there; add some, or remove it")
    return sorted(images), {str(place.relative_to(root)): place.stat().st_mtime_ns for place in places}


def _list_annotated(
    root: Path, folder: Path, number: Mapping[str, int], folders: dict[str, int]
) -> Iterator[_Image]:
    """Yield Tiny-ImageNet's validation images in the order of their annotations: name, class, a box."""
    place = folder / "images"
    folders[os.path.relpath(place, root)] = place.stat().st_mtime_ns
    for line in (folder / ANNOTATIONS).read_text(encoding="utf-8").splitlines():
        name, _, rest = line.partition("\t")
        label = rest.partition("\t")[0]
        if label not in number:
            raise DataError(f"{folder / ANNOTATIONS}: {name} is of class {label}, which is not in train/")
        path = place / name
        yield _image(path, path.relative_to(root), number[label])


def find_files(root: Path, folder: str, suffix: str, name: str, directory: Path | None = None) -> Listing:
    """Return the listing of the files of a folder and of those below it, which have no class.

    They are sorted by their names without the suffix.

    Args:
        root: the folder of the data set.
        folder: below it.
        suffix: of the files; others are left out.
        name: of the kept listing.
        directory: where the listing is kept if not beside the data.

    Raises:
        DataError: the folder is missing or holds no such files, or a kept listing does not fit them.
    """
    places = [place / "manifest" / f"{name}.npy" for place in (root, directory) if place is not None]
    for place in places:
        if (listing := _load(place, root, folder)) is not None:
            return listing
    whole = root / folder
    if not whole.is_dir():
        raise DataError(f"{whole}: there is no such folder; data.path must name the one that holds it")
    paths = [path for path in files_below(whole) if path.name.endswith(suffix)]
    if not paths:
        raise DataError(f"{whole}: found no files there whose names end in {suffix}")
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda path: _image(path, path.relative_to(root), 0), paths)
        files = sorted(bar(found, len(paths), "list"), key=lambda one: one.name.removesuffix(suffix.encode()))
    above = {place for path in paths for place in path.parents if place.is_relative_to(whole)}
    folders = {str(place.relative_to(root)): place.stat().st_mtime_ns for place in above}
    types = [("label", np.int32), ("size", np.int64), ("changed", np.int64)]
    rows = np.array(files, [("name", f"S{max(len(one.name) for one in files)}"), *types])
    return Listing(root, _keep(rows, {"classes": [], "folders": folders}, places), ())


def _image(path: Path, name: Path, label: int) -> _Image:
    try:
        found = path.stat()
    except OSError as problem:
        raise DataError(f"{path}: cannot be read ({problem.strerror}); remove it, or put it right") from None
    return _Image(os.fsencode(name), label, found.st_size, found.st_mtime_ns)


def _keep(rows: np.ndarray, about: Mapping[str, object], places: Sequence[Path]) -> Path | np.ndarray:
    """Write the array to the first place that takes it, and what is known of the folders beside it."""
    content = io.BytesIO()
    np.save(content, rows)
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, content.getvalue())
            write_whole(place.with_suffix(".json"), json.dumps(about))
        except OSError:
            continue
        return place
    return rows


def _load(place: Path, root: Path, split: str) -> Listing | None:
    """Return the listing kept at a place; None if there is none.

    Raises:
        DataError: it cannot be read, or the folders have changed since.
    """
    about = place.with_suffix(".json")
    if not about.exists():
        return None
    advice = f"if that is right, remove {about}, and the images are listed again"
    try:
        known = json.loads(about.read_text(encoding="utf-8"))
        listing = Listing(root, place, tuple(known["classes"]))
        rows, folders = listing.rows(), dict(known["folders"])
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        raise DataError(f"{place}: not a listing that can be read; remove {about}") from None
    for name, changed in folders.items():
        if not (root / name).is_dir() or (root / name).stat().st_mtime_ns != changed:
            raise DataError(f"{root / name}: has changed since its images were listed; {advice}")
    for row in range(0, len(rows), max(len(rows) // _N_CHECKED, 1)):
        path = root / os.fsdecode(bytes(rows["name"][row]))
        if _image(path, path, 0).size != rows["size"][row]:
            raise DataError(f"{path}: has changed since it was listed; {advice}")
    return listing
