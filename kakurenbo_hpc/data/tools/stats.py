"""The smallest and largest value of each channel of DeepCAM's training files: what samples are normalised with."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from ...errors import DataError
from ...rundir.console import bar
from ..hdf5.manifest import LARGEST, STATS, stats_path


class Extremes(NamedTuple):
    """low, high: (C,) float32, over all pixels of one sample or of many."""

    low: np.ndarray
    high: np.ndarray


def write_stats(folder: Path, replace: bool = False) -> int:
    """Write the statistics of the HDF5 files in ``folder/train``; return how many there are. One thread for each core reads.

    replace: do so even if it is there. Raises DataError that names the file if one cannot be read, or does not go with the others.
    """
    stats = stats_path(folder)
    if stats.exists() and not replace:
        raise DataError(f"{stats}: is there already; add --replace to compute it anew")
    paths = sorted(
        path
        for path in (folder / "train").glob("*")
        if path.suffix in (".h5", ".hdf5") and path.name != STATS
    )
    if not paths:
        raise DataError(
            f"{folder / 'train'}: found no .h5 files there; give the folder that holds train/ and validation/"
        )
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = list(bar(pool.map(extremes, paths), len(paths), "stats"))
    for path, one in zip(paths, found, strict=True):
        if one.low.shape != found[0].low.shape:
            raise DataError(
                f"{path}: climate/data has {len(one.low)} channels, but {paths[0].name} has {len(found[0].low)}; remove one"
            )
    save_stats(stats, found)
    return len(paths)


def extremes(path: Path) -> Extremes:
    """Return those of one file's sample. Raises DataError if it cannot be read, or holds no fields, or values that are not finite."""
    try:
        with h5py.File(path) as file:
            dataset = file.get("climate/data")
            if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "biuf":
                raise DataError(f"{path}: has no dataset climate/data of numbers; is it a file of DeepCAM's?")
            if dataset.nbytes > LARGEST:
                raise DataError(
                    f"{path}: says that climate/data has {dataset.nbytes:,} bytes; the file is damaged, fetch or make it again"
                )
            fields = dataset[...]
    except OSError as problem:
        raise DataError(f"{path}: cannot be read ({problem}); fetch or make it again") from None
    if fields.ndim != 3 or not fields.size:
        raise DataError(
            f"{path}: climate/data has the shape {fields.shape}, but must have (height, width, channels)"
        )
    found = Extremes(*(bound(fields, axis=(0, 1)).astype(np.float32) for bound in (np.min, np.max)))
    if not np.isfinite(found).all():
        raise DataError(f"{path}: climate/data holds values that are not finite; fetch or make it again")
    return found


def save_stats(path: Path, found: Iterable[Extremes]) -> None:
    """Write ``climate/minval`` and ``climate/maxval``, (C,) float32, over all of these. Raises DataError if the file cannot be written."""
    lows, highs = zip(*found, strict=True)
    beside = path.with_name(f".{path.name}.part")
    try:
        with h5py.File(beside, "w") as file:
            file["climate/minval"], file["climate/maxval"] = np.min(lows, axis=0), np.max(highs, axis=0)
        os.replace(beside, path)
    except OSError as problem:
        raise DataError(f"{path}: cannot be written ({problem})") from None
