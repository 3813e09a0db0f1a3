"""Listing of an image folder: made once by rank 0, kept in a file, and read by every rank by id.

A listing is an array with one row per image: name relative to the data set's folder, class, size and time of
last change, and for packed images where they lie. It is kept as ``manifest/{train,validation}_images.npy``,
beside the data or, if that is read-only, in the run directory, and mapped into memory: no rank holds a list
of a million names. Later starts look only at the folders, whose time of change reveals new and removed files,
and at a thousand files.
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
from ..dataset import PackedIn, SampleFiles
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
        parts: names of the files that hold packed images, whose rows have their part (int32) and offset in it
            (int64); none where every image is a file.
    """

    root: Path
    kept: Path | np.ndarray
    classes: tuple[str, ...]
    parts: tuple[str, ...] = ()

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
    packed = PackedIn(listing.parts, rows["part"], rows["offset"]) if listing.parts else None
    return SampleFiles(listing.root, Names(listing), rows["size"], rows["changed"], packed)


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
    places = places_for(f"{name}_images", root, directory)
    for place in places:
        if (kept := load(place, root)) is not None:
            listing, folders = kept
            _check_unchanged(listing, folders, place.with_suffix(".json"))
            return listing
    found = list_images(root, split, classes)
    about = {"classes": found.classes, "folders": found.folders}
    return Listing(root, keep(found.rows, about, places), found.classes)


def validation_folder(root: Path) -> str:
    """Return the name of the folder of validation images: val if only that is there, else validation."""
    return "val" if (root / "val").is_dir() and not (root / "validation").is_dir() else "validation"


class Found(NamedTuple):
    """What was found in a split.

    Attributes:
        rows: as in a listing.
        classes: names, in the order of their labels.
        folders: when each was last changed, by its name.
        left_out: files that are not named as images, or lie in no class.
    """

    rows: np.ndarray
    classes: tuple[str, ...]
    folders: dict[str, int]
    left_out: list[Path]


def list_images(root: Path, split: str, classes: Sequence[str] | None = None) -> Found:
    """Look up the images of a split, as ``find_images`` does, and keep nothing.

    Raises:
        DataError: a folder is missing or empty, or a class is unknown.
    """
    names = tuple(_class_folders(root / split)) if classes is None else tuple(classes)
    found = Found(np.empty(0), names, {}, [])
    images = list(_list_split(root, split, found))
    width = max(len(image.name) for image in images)
    rows = np.array(
        images, [("name", f"S{width}"), ("label", np.int32), ("size", np.int64), ("changed", np.int64)]
    )
    return found._replace(rows=rows)


def _list_split(root: Path, split: str, found: Found) -> Iterator[_Image]:
    """Yield the images by class and name; add to ``found`` the folders and what is left out."""
    folder = root / split
    number = {name: label for label, name in enumerate(found.classes)}
    if (folder / ANNOTATIONS).exists():
        yield from _list_annotated(root, folder, number, found.folders)
        return
    names = _class_folders(folder)
    check_spelling(folder, names, found.classes)
    found.folders[split] = folder.stat().st_mtime_ns
    for name in names:
        if name not in number:
            raise DataError(
                f"{folder / name}: there is no such class to train on; remove it, or add "
                f"{root / 'train' / name}"
            )
    with ThreadPoolExecutor(_THREADS) as pool:
        listed = pool.map(lambda name: _list_class(root, folder / name, number[name]), names)
        for images, times, left_out in bar(listed, len(names), "list"):
            found.folders.update(times)
            found.left_out.extend(left_out)
            yield from images
    found.left_out.extend(path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")


def _class_folders(folder: Path) -> list[str]:
    """Return the names of the folders in a split, sorted.

    Raises:
        DataError: it cannot be listed, or holds none.
    """
    try:
        found = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    except OSError as problem:
        raise DataError(
            f"{folder}: cannot be listed ({problem.strerror}); give the folder that holds train/CLASS/ and "
            "val/CLASS/ or validation/CLASS/"
        ) from None
    if not found:
        raise DataError(f"{folder}: found no folders there; images are expected in {folder}/CLASS/")
    return found


def _list_class(root: Path, folder: Path, label: int) -> tuple[list[_Image], dict[str, int], list[Path]]:
    """Return the images below a folder, when each folder with some was last changed, and all other files."""
    images, places, left_out = [], {folder}, []
    for path in files_below(folder):
        if path.suffix.lower() in SUFFIXES:
            images.append(_image(path, path.relative_to(root), label))
            places.update(place for place in path.parents if place.is_relative_to(folder))
        else:
            left_out.append(path)
    if not images:
        raise DataError(f"{folder}: found no images there; add some, or remove it")
    _check_case(root, images)
    times = {str(place.relative_to(root)): place.stat().st_mtime_ns for place in places}
    return sorted(images), times, left_out


def _check_case(root: Path, images: Sequence[_Image]) -> None:
    """Check that names differ in more than case, or one file would replace the other on some disks."""
    spelled: dict[str, str] = {}
    for name in (os.fsdecode(image.name) for image in images):
        other = spelled.setdefault(name.casefold(), name)
        if other != name:
            raise DataError(
                f"{root / max(name, other)}: differs from {Path(min(name, other)).name} in case only; remove "
                "one of them, or give it another name"
            )


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
    places = places_for(name, root, directory)
    for place in places:
        if (kept := load(place, root)) is not None:
            listing, folders = kept
            _check_unchanged(listing, folders, place.with_suffix(".json"))
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
    return Listing(root, keep(rows, {"classes": [], "folders": folders}, places), ())


def _image(path: Path, name: Path, label: int) -> _Image:
    try:
        found = path.stat()
    except OSError as problem:
        raise DataError(f"{path}: cannot be read ({problem.strerror}); remove it, or put it right") from None
    return _Image(os.fsencode(name), label, found.st_size, found.st_mtime_ns)


def places_for(name: str, root: Path, directory: Path | None) -> list[Path]:
    """Return where a listing may be kept: beside the data, or in the run's directory."""
    return [place / "manifest" / f"{name}.npy" for place in (root, directory) if place is not None]


def keep(rows: np.ndarray, about: Mapping[str, object], places: Sequence[Path]) -> Path | np.ndarray:
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


def load(place: Path, root: Path) -> tuple[Listing, dict] | None:
    """Return the listing kept at a place, and what is known of its folders or parts; None if there is none.

    Raises:
        DataError: it cannot be read.
    """
    about = place.with_suffix(".json")
    if not about.exists():
        return None
    try:
        known = json.loads(about.read_text(encoding="utf-8"))
        listing = Listing(root, place, tuple(known["classes"]), tuple(known.get("parts", ())))
        listing.rows()
        return listing, dict(known["parts" if listing.parts else "folders"])
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        raise DataError(f"{place}: not a listing that can be read; remove {about}") from None


def _check_unchanged(listing: Listing, folders: Mapping[str, int], about: Path) -> None:
    """Raise a DataError if a folder or one of a thousand files has changed since it was listed."""
    root, rows = listing.root, listing.rows()
    advice = f"if that is right, remove {about}, and the images are listed again"
    for name, changed in folders.items():
        if not (root / name).is_dir() or (root / name).stat().st_mtime_ns != changed:
            raise DataError(f"{root / name}: has changed since its images were listed; {advice}")
    for row in range(0, len(rows), max(len(rows) // _N_CHECKED, 1)):
        path = root / os.fsdecode(bytes(rows["name"][row]))
        if _image(path, path, 0).size != rows["size"][row]:
            raise DataError(f"{path}: has changed since it was listed; {advice}")
