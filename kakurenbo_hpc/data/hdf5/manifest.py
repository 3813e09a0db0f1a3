"""Manifest of the HDF5 files of a split: looked up once, kept, and compared with the files later.

A dataset that is contiguous, unfiltered and in this machine's byte order can be read at its offset without
HDF5, so the manifest holds its offset. Every other one, chunked, compressed or of another dtype than the
first file's, is read through h5py.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np

from ...errors import DataError
from ...rundir.atomic_io import write_whole
from ...rundir.console import bar
from ..workers import forkserver_context
from .layout import THROUGH_H5PY, Layout, read_layout, sample_bytes

STATS = "stats.h5"  # not a sample, though the public small DeepCAM set keeps it among them
_MANY = 2000  # files, from which on several processes open them
_FOLDER = "manifest"
_VERSION = 2  # of what is looked up: 1 had offsets of datasets that are not stored as numpy has them


@dataclass(frozen=True)
class Manifest:
    """The files of one split, and what they have in common.

    Attributes:
        root: the folder of the data set.
        names: (F,) relative to root, with forward slashes.
        sizes: (F,) int64, in bytes.
        changed: (F,) int64, times of last change in nanoseconds.
        rows: (F,) int64, samples in each.
        offsets: (F, D) int64, where each dataset begins, or THROUGH_H5PY.
        single: each file is one sample.
        datasets: (D,) names inside a file.
        shapes: (D,) of one sample in each of them.
        dtypes: (D,) in this machine's byte order.
    """

    root: Path
    names: np.ndarray
    sizes: np.ndarray
    changed: np.ndarray
    rows: np.ndarray
    offsets: np.ndarray
    single: bool
    datasets: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype, ...]

    def path(self, file: int) -> Path:
        """Return the path of a file by its number."""
        return self.root / str(self.names[file])


def find(root: Path, split: str, datasets: Sequence[str], single: bool, directory: Path | None) -> Manifest:
    """Return the manifest of the files ``root / split / *.h5``: the kept one, or a new one to keep.

    Args:
        root: the folder of the data set.
        split: ``train`` or ``validation``.
        datasets: names inside a file.
        single: each file is one sample; otherwise each row of its datasets is.
        directory: where the manifest is kept if not beside the data.

    Raises:
        DataError: the folder is missing or empty, a file lacks a dataset or differs in shape from the first,
            or a kept manifest does not fit the files.
    """
    names, sizes, changed = _list_files(root, split)
    places = _manifest_paths(root, split, directory)
    for place in places:
        if place.exists():
            try:
                kept = _load(place, root)
                if kept is not None and (kept.datasets, kept.single) == (tuple(datasets), single):
                    _check_fits(kept, place, names, sizes, changed)
                    return kept
            except DataError:
                # A user who may not remove it goes on to the next place.
                if os.access(place.parent, os.W_OK):
                    raise
    layouts = list(_read_layouts([root / str(name) for name in names], datasets, single))
    manifest = _combine(root, names, sizes, changed, datasets, single, layouts)
    _keep(manifest, [layout.description for layout in layouts], places)
    return manifest


def fingerprint(manifests: Sequence[Manifest]) -> str:
    """Return a digest of all names and sizes, which changes when ids would mean other samples."""
    digest = hashlib.blake2b(digest_size=8)
    for manifest in manifests:
        digest.update("\n".join(manifest.names.tolist()).encode("utf-8", "surrogateescape"))
        digest.update(np.stack([manifest.sizes, manifest.rows]).astype("<i8").tobytes())
    return f"{'+'.join(str(manifest.rows.sum()) for manifest in manifests)}-{digest.hexdigest()}"


def is_sample_file(name: str) -> bool:
    """Return whether a file of this name is read: HDF5, not hidden, no statistics.

    Hidden ones are traces of other systems (``._x.h5``) and files that are being written.
    """
    return name.lower().endswith((".h5", ".hdf5")) and not name.startswith(".") and name != STATS


def stats_path(root: Path) -> Path:
    """Return the path of DeepCAM's statistics: in train/ if they are there, else beside it."""
    in_train = root / "train" / STATS
    return in_train if in_train.exists() else root / STATS


def _list_files(root: Path, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return names, sizes and times of last change, sorted by name."""
    folder = root / split
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if is_sample_file(entry.name))
    except OSError as problem:
        raise DataError(
            f"{folder}: cannot be listed ({problem.strerror}); data.path must name a folder with "
            f"{split}/*.h5 in it"
        ) from None
    if not names:
        raise DataError(f"{folder}: holds no .h5 files; data.path must name a folder with {split}/*.h5 in it")
    with ThreadPoolExecutor(16) as pool:  # a parallel file system serves many requests at once
        stats = list(pool.map(_stat, [folder / name for name in names]))
    return (
        np.array([f"{split}/{name}" for name in names]),
        np.array([stat.st_size for stat in stats]),
        np.array([stat.st_mtime_ns for stat in stats]),
    )


def _stat(path: Path) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as problem:
        raise DataError(
            f"{path}: listed, but cannot be found ({problem.strerror}); copy it again, or remove it"
        ) from None


def _read_layouts(paths: Sequence[Path], datasets: Sequence[str], single: bool) -> Iterator[Layout]:
    read = partial(read_layout, datasets=tuple(datasets), single=single)
    if len(paths) < _MANY:
        yield from bar(map(read, paths), len(paths), "look up")
        return
    n_processes = min(16, len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(n_processes, forkserver_context("kakurenbo_hpc.data.loader")) as pool:
        yield from bar(pool.map(read, paths, chunksize=64), len(paths), "look up")


def _combine(
    root: Path,
    names: np.ndarray,
    sizes: np.ndarray,
    changed: np.ndarray,
    datasets: Sequence[str],
    single: bool,
    layouts: Sequence[Layout],
) -> Manifest:
    first = layouts[0]
    for name, layout in zip(names, layouts, strict=True):
        if layout.shapes != first.shapes:
            raise DataError(
                f"{root / str(name)}: samples are of shape {layout.shapes}, but {first.shapes} in "
                f"{names[0]}; "
                "all must be alike"
            )
    offsets = np.array([layout.offsets for layout in layouts])
    for file, layout in enumerate(layouts):
        n_bytes = [layout.rows * n for n in map(sample_bytes, layout.shapes, layout.dtypes)]
        ends = [offset + n for offset, n in zip(layout.offsets, n_bytes, strict=True) if offset >= 0]
        if max(ends, default=0) > sizes[file]:
            raise DataError(f"{root / str(names[file])}: ends before its datasets do; copy it again")
        if layout.dtypes != first.dtypes:
            offsets[file] = THROUGH_H5PY
    return Manifest(
        root,
        names,
        sizes,
        changed,
        np.array([layout.rows for layout in layouts]),
        offsets,
        single,
        tuple(datasets),
        tuple(first.shapes),
        tuple(first.dtypes),
    )


def _manifest_paths(root: Path, split: str, directory: Path | None) -> list[Path]:
    return [folder / _FOLDER / f"{split}.npz" for folder in (root, directory) if folder is not None]


def _keep(manifest: Manifest, descriptions: Sequence[str], places: Sequence[Path]) -> None:
    """Write the manifest to the first place that takes it; without one, it is made again next time."""
    arrays = {
        field.name: getattr(manifest, field.name)
        for field in fields(Manifest)
        if field.name not in ("root", "shapes", "dtypes")
    }
    arrays |= {f"shape_{i}": np.array(shape, np.int64) for i, shape in enumerate(manifest.shapes)}
    arrays["layouts"], arrays["version"] = np.array(descriptions), np.array(_VERSION)
    arrays["dtypes"] = np.array([dtype.str for dtype in manifest.dtypes])
    content = io.BytesIO()
    np.savez(content, **arrays)
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, content.getvalue())
            return
        except OSError:
            continue


def _load(place: Path, root: Path) -> Manifest | None:
    """Return the manifest kept at a place; None if an earlier version of this package wrote it."""
    try:
        with np.load(place, allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files if name != "layouts"}
        if int(arrays.pop("version", 1)) != _VERSION:
            return None
        shapes = tuple(tuple(arrays.pop(f"shape_{i}").tolist()) for i in range(len(arrays["datasets"])))
        dtypes = tuple(np.dtype(str(name)) for name in arrays.pop("dtypes"))
        datasets, single = tuple(str(name) for name in arrays.pop("datasets")), bool(arrays.pop("single"))
        if len({len(column) for column in arrays.values()}) > 1:
            raise ValueError
        return Manifest(root, **arrays, single=single, datasets=datasets, shapes=shapes, dtypes=dtypes)
    except Exception:  # zipfile and numpy raise many kinds for damaged bytes
        raise DataError(
            f"{place}: not a manifest that can be read; remove it, and the files are looked up again"
        ) from None


def _check_fits(
    manifest: Manifest, place: Path, names: np.ndarray, sizes: np.ndarray, changed: np.ndarray
) -> None:
    if np.array_equal(manifest.names, names):
        differ = names[(manifest.sizes != sizes) | (manifest.changed != changed)]
        problem = (
            f"{len(differ)} of {len(names)} files are of another size or date than it says, {differ[0]} for "
            "one"
            if len(differ)
            else ""
        )
    else:
        n_present = np.isin(manifest.names, names).sum()
        problem = (
            f"it names {len(manifest.names)} files, of which {n_present} are among the {len(names)} that are "
            "there"
        )
    if problem:
        raise DataError(f"{place}: {problem}; if the data was changed on purpose, remove this manifest")
