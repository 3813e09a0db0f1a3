"""Statistics of DeepCAM's training files: the smallest and largest value of each channel."""

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
from ..hdf5.layout import LARGEST, explain
from ..hdf5.manifest import is_sample_file, stats_path


class Extremes(NamedTuple):
    """The smallest and largest values over all pixels of one sample or of many, (C,) float32 each."""

    low: np.ndarray
    high: np.ndarray


def write_stats(folder: Path, replace: bool = False) -> int:
    """Write the statistics of the HDF5 files in ``folder/train``; return the number of files.

    Args:
        folder: of the data set.
        replace: overwrite statistics that exist.

    Raises:
        DataError: a file, which it names, cannot be read or has other channels than the first.
    """
    stats = stats_path(folder)
    if stats.exists() and not replace:
        raise DataError(f"{stats}: exists; add --replace to compute it anew")
    paths = sorted(path for path in (folder / "train").glob("*") if is_sample_file(path.name))
    if not paths:
        raise DataError(
            f"{folder / 'train'}: found no .h5 files there; give the folder that holds train/ and validation/"
        )
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        samples = list(bar(pool.map(extremes, paths), len(paths), "stats"))
    for path, sample in zip(paths, samples, strict=True):
        if sample.low.shape != samples[0].low.shape:
            raise DataError(
                f"{path}: climate/data has {len(sample.low)} channels, but {paths[0].name} has "
                f"{len(samples[0].low)}; remove one"
            )
    save_stats(stats, samples)
    return len(paths)


def extremes(path: Path) -> Extremes:
    """Return the extremes of one file's sample.

    Raises:
        DataError: it cannot be read, or holds no fields, or values that are not finite.
    """
    try:
        with h5py.File(path) as file:
            dataset = file.get("climate/data")
            if (
                not isinstance(dataset, h5py.Dataset)
                or dataset.shape is None
                or dataset.dtype.kind not in "biuf"
            ):
                raise DataError(f"{path}: has no dataset climate/data of numbers; is it a file of DeepCAM's?")
            if dataset.nbytes > LARGEST:
                raise DataError(
                    f"{path}: says that climate/data has {dataset.nbytes:,} bytes; the file is damaged, "
                    "fetch or make it again"
                )
            fields = dataset[...]
    except OSError as problem:
        reason, advice = explain(problem, "fetch or make it again")
        raise DataError(f"{path}: cannot be read ({reason}); {advice}") from None
    if fields.ndim != 3 or not fields.size:
        raise DataError(
            f"{path}: climate/data has the shape {fields.shape}, but must have (height, width, channels)"
        )
    found = Extremes(*(bound(fields, axis=(0, 1)).astype(np.float32) for bound in (np.min, np.max)))
    if not np.isfinite(found).all():
        raise DataError(f"{path}: climate/data holds values that are not finite; fetch or make it again")
    return found


def save_stats(path: Path, samples: Iterable[Extremes]) -> None:
    """Write ``climate/minval`` and ``climate/maxval``, (C,) float32, over all samples.

    Raises:
        DataError: the file cannot be written.
    """
    lows, highs = zip(*samples, strict=True)
    partial = path.with_name(f".{path.name}.part")
    try:
        with h5py.File(partial, "w") as file:
            file["climate/minval"], file["climate/maxval"] = np.min(lows, axis=0), np.max(highs, axis=0)
        os.replace(partial, path)
    except OSError as problem:
        raise DataError(f"{path}: cannot be written ({problem})") from None
