"""What lies where in the HDF5 files of a data set: looked up once, kept, and compared with the files when it is used again.

A dataset that is one piece of unfiltered bytes can be read at its offset, without HDF5; its offset is noted. Everything else,
chunked, compressed or of another dtype than the first file's, has none, and is read through h5py.
"""

from __future__ import annotations

import hashlib
import io
import math
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import DataError
from ...rundir.atomic_io import write_whole
from ...rundir.console import bar

THROUGH_H5PY = -1
STATS = "stats.h5"  # no sample, though the public small DeepCAM set has it among them
LARGEST = 1 << 34  # bytes of one sample: what says more is damaged, or means harm
_MANY = 2000  # files, from which on more than one process opens them
_FOLDER = "manifest"


@dataclass(frozen=True)
class Manifest:
    """The files of one part of a data set, and what is the same in all of them.

    names: (F,) relative to root, with forward slashes. sizes: (F,) bytes. changed: (F,) ns, times of last change. rows: (F,)
    samples in each. offsets: (F, D) where each dataset begins, or THROUGH_H5PY. single: each file is one sample.
    datasets: (D,) names inside a file. shapes, dtypes: of one sample in each of them; dtypes in this machine's byte order.
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
        return self.root / str(self.names[file])


class Inside(NamedTuple):
    """What one file holds; shapes: of one sample."""

    rows: int
    offsets: list[int]
    layout: str
    shapes: list[tuple[int, ...]]
    dtypes: list[np.dtype]


def find(root: Path, part: str, datasets: Sequence[str], single: bool, directory: Path | None) -> Manifest:
    """Return the manifest of the files ``root / part / *.h5``, from where it is kept or from the files, and keep it.

    single: each file is one sample; otherwise each row of its datasets is. directory: where it is kept if not beside the
    data. Raises DataError if the folder is not there or is empty, a file lacks a dataset or is of another shape than the
    first, or a manifest that was kept does not fit the files.
    """
    names, sizes, changed = _listed(root, part)
    for place in _places(root, part, directory):
        if place.exists():
            try:
                kept = _load(place, root)
                if (kept.datasets, kept.single) == (tuple(datasets), single):
                    _check_fits(kept, place, names, sizes, changed)
                    return kept
            except DataError:
                if os.access(place.parent, os.W_OK):
                    raise
                # Who may not remove it looks the files up again, and keeps what is found in the next place.
    insides = list(_examined([root / str(name) for name in names], datasets, single))
    manifest = _together(root, names, sizes, changed, datasets, single, insides)
    _keep(manifest, [inside.layout for inside in insides], _places(root, part, directory))
    return manifest


def fingerprint(parts: Sequence[Manifest]) -> str:
    """Return what changes when ids would mean other samples: a digest of all names and sizes."""
    digest = hashlib.blake2b(digest_size=8)
    for manifest in parts:
        digest.update("\n".join(manifest.names.tolist()).encode())
        digest.update(np.stack([manifest.sizes, manifest.rows]).astype("<i8").tobytes())
    return f"{'+'.join(str(manifest.rows.sum()) for manifest in parts)}-{digest.hexdigest()}"


def stats_path(root: Path) -> Path:
    """Return where DeepCAM's statistics lie: among the samples if they are there, else beside train and validation."""
    among = root / "train" / STATS
    return among if among.exists() else root / STATS


def _listed(root: Path, part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return names, sizes and times of last change, sorted by name."""
    folder = root / part
    try:
        found = sorted(
            entry.name
            for entry in os.scandir(folder)
            if entry.name.endswith((".h5", ".hdf5")) and entry.name != STATS
        )
    except OSError as problem:
        raise DataError(
            f"{folder}: cannot be listed ({problem.strerror}); data.path must name a folder with {part}/*.h5 in it"
        ) from None
    if not found:
        raise DataError(f"{folder}: holds no .h5 files; data.path must name a folder with {part}/*.h5 in it")
    with ThreadPoolExecutor(16) as pool:  # a parallel file system answers many questions at once
        facts = list(pool.map(_facts, [folder / name for name in found]))
    return (
        np.array([f"{part}/{name}" for name in found]),
        np.array([fact.st_size for fact in facts]),
        np.array([fact.st_mtime_ns for fact in facts]),
    )


def _facts(path: Path) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as problem:
        raise DataError(
            f"{path}: is listed, but cannot be found ({problem.strerror}); copy it again, or remove it"
        ) from None


def _examined(paths: Sequence[Path], datasets: Sequence[str], single: bool) -> Iterator[Inside]:
    asked = ([tuple(datasets)] * len(paths), [single] * len(paths))
    if len(paths) < _MANY:
        yield from bar(map(_examine, paths, *asked), len(paths), "look up")
        return
    # Never forked: this process may run MPI.
    with ProcessPoolExecutor(
        min(16, len(os.sched_getaffinity(0))), multiprocessing.get_context("forkserver")
    ) as pool:
        yield from bar(pool.map(_examine, paths, *asked, chunksize=64), len(paths), "look up")


def _examine(path: Path, datasets: Sequence[str], single: bool) -> Inside:
    """Open a file and look at its datasets; no sample is read."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            found = [_dataset(file, path, name) for name in datasets]
            lengths = [1 if single else dataset.shape[0] if dataset.shape else 0 for dataset in found]
            if len(set(lengths)) > 1 or not lengths[0]:
                pairs = ", ".join(f"{name} has {length}" for name, length in zip(datasets, lengths))
                raise DataError(f"{path}: {pairs} rows, but all datasets must have as many, and at least one")
            offsets = [_offset(dataset) for dataset in found]
            shapes = [tuple(dataset.shape if single else dataset.shape[1:]) for dataset in found]
            dtypes = [dataset.dtype.newbyteorder("=") for dataset in found]
            n_bytes = max(map(_bytes, shapes, dtypes))
            if n_bytes > LARGEST:
                raise DataError(
                    f"{path}: says that a sample has {n_bytes:,} bytes; the file is damaged, copy it again"
                )
            return Inside(lengths[0], offsets, "; ".join(map(_layout, found)), shapes, dtypes)
    except OSError as problem:
        raise DataError(
            f"{path}: cannot be read as HDF5 ({' '.join(str(problem).split())}); copy it again"
        ) from None


def _dataset(file, path: Path, name: str):
    """Return a dataset, checked: numbers that lie in this very file."""
    import h5py

    dataset = file.get(name) if not isinstance(file.get(name, getlink=True), h5py.ExternalLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        there = [inner for inner in _datasets(file)][:6]
        raise DataError(
            f"{path}: holds no dataset {name} of its own, but {', '.join(there) or 'none'}; is this the data set that the job names?"
        )
    if dataset.dtype.kind not in "biuf":
        raise DataError(f"{path}: {name} holds {dataset.dtype}, but must hold numbers")
    return dataset


def _datasets(file) -> list[str]:
    import h5py

    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return found


def _offset(dataset) -> int:
    """Return where a dataset's bytes begin, if they lie in one piece and as this machine has them in memory."""
    offset = dataset.id.get_offset() if dataset.dtype.isnative and dataset.chunks is None else None
    return THROUGH_H5PY if offset is None else offset


def _bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def _layout(dataset) -> str:
    if dataset.chunks is None:
        return "contiguous" if dataset.dtype.isnative else "contiguous, other byte order"
    return f"chunks {dataset.chunks}" + (f", {dataset.compression}" if dataset.compression else "")


def _together(
    root: Path,
    names: np.ndarray,
    sizes: np.ndarray,
    changed: np.ndarray,
    datasets: Sequence[str],
    single: bool,
    insides: Sequence[Inside],
) -> Manifest:
    first = insides[0]
    for name, inside in zip(names, insides):
        if inside.shapes != first.shapes:
            raise DataError(
                f"{root / str(name)}: samples are of shape {inside.shapes}, but {first.shapes} in {names[0]}; all must be alike"
            )
    offsets = np.array([inside.offsets for inside in insides])
    for file, inside in enumerate(insides):
        n_bytes = [inside.rows * n for n in map(_bytes, inside.shapes, inside.dtypes)]
        if any(offset >= 0 and offset + n > sizes[file] for offset, n in zip(inside.offsets, n_bytes)):
            raise DataError(f"{root / str(names[file])}: ends before its datasets do; copy it again")
        if inside.dtypes != first.dtypes:
            offsets[file] = THROUGH_H5PY
    rows = np.array([inside.rows for inside in insides])
    return Manifest(
        root,
        names,
        sizes,
        changed,
        rows,
        offsets,
        single,
        tuple(datasets),
        tuple(first.shapes),
        tuple(first.dtypes),
    )


def _places(root: Path, part: str, directory: Path | None) -> list[Path]:
    return [folder / _FOLDER / f"{part}.npz" for folder in (root, directory) if folder is not None]


def _keep(manifest: Manifest, layouts: Sequence[str], places: Sequence[Path]) -> None:
    """Write the manifest to the first place that takes it; it can be made again, so that none need to.

    layouts: of each file, in words for people.
    """
    arrays = {
        field.name: getattr(manifest, field.name)
        for field in fields(Manifest)
        if field.name not in ("root", "shapes", "dtypes")
    }
    arrays |= {f"shape_{i}": np.array(shape, np.int64) for i, shape in enumerate(manifest.shapes)}
    arrays["layouts"] = np.array(layouts)
    arrays["dtypes"] = np.array([dtype.str for dtype in manifest.dtypes])
    content = io.BytesIO()
    np.savez(content, **arrays)
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            return write_whole(place, content.getvalue())
        except OSError:
            continue


def _load(place: Path, root: Path) -> Manifest:
    try:
        with np.load(place, allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files if name != "layouts"}
        shapes = tuple(tuple(arrays.pop(f"shape_{i}").tolist()) for i in range(len(arrays["datasets"])))
        dtypes = tuple(np.dtype(str(name)) for name in arrays.pop("dtypes"))
        datasets, single = tuple(str(name) for name in arrays.pop("datasets")), bool(arrays.pop("single"))
        if len({len(column) for column in arrays.values()}) > 1:
            raise ValueError
        return Manifest(root, **arrays, single=single, datasets=datasets, shapes=shapes, dtypes=dtypes)
    except Exception:  # zipfile and numpy have many words for damaged bytes
        raise DataError(
            f"{place}: not a manifest that can be read; remove it, and the files are looked up again"
        ) from None


def _check_fits(
    manifest: Manifest, place: Path, names: np.ndarray, sizes: np.ndarray, changed: np.ndarray
) -> None:
    if np.array_equal(manifest.names, names):
        differ = names[(manifest.sizes != sizes) | (manifest.changed != changed)]
        problem = (
            f"{len(differ)} of {len(names)} files are of another size or date than it says, {differ[0]} for one"
            if len(differ)
            else ""
        )
    else:
        n_there = np.isin(manifest.names, names).sum()
        problem = f"it names {len(manifest.names)} files, of which {n_there} are among the {len(names)} that are there"
    if problem:
        raise DataError(f"{place}: {problem}; if the data was changed on purpose, remove this manifest")
