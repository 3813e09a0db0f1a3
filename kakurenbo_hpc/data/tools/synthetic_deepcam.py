"""Synthetic DeepCAM files in the public set's layout: ``{train,validation}/data-*.h5`` and ``stats.h5``.

The specification is kept in ``made.json``, so that an interrupted run continues, and no two sets are mixed.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from ...errors import DataError
from ...rundir.console import bar
from ..hdf5.manifest import STATS
from .output_folder import check_space, claim
from .stats import Extremes, extremes, save_stats
from .synthetic_climate import CHANNELS, HARD, MISLABELLED, draw

_STEPS_A_DAY = 8
_SPLITS = ("train", "validation")  # their names differ in the number of the simulation, from 1


@dataclass(frozen=True)
class SyntheticSpec:
    """Specification of a synthetic set: numbers of samples, their size in pixels, and the seed."""

    samples: int
    validation: int
    height: int
    width: int
    seed: int

    def files(self) -> list[tuple[str, int]]:
        """Return split and number of every sample."""
        n_samples = {"train": self.samples, "validation": self.validation}
        return [(split, number) for split, n in n_samples.items() for number in range(n)]

    def file_bytes(self) -> int:
        """Return the approximate size of a file."""
        return 4 * self.height * self.width * (len(CHANNELS) + 1) + 4096


def make(folder: Path, spec: SyntheticSpec, processes: int | None = None) -> int:
    """Make the files of this set that the folder lacks; return their number.

    A file exists only if it is complete, and is the same for any number of processes.

    Args:
        folder: for the files.
        spec: what to make.
        processes: that make samples; one per core if not given.

    Raises:
        DataError: the folder cannot be written to, holds anything else, or the disk is too small.
    """
    files, workers = spec.files(), processes or len(os.sched_getaffinity(0))
    lacking = [file for file in files if not os.path.exists(path_of(folder, *file))]
    check_space(folder, len(lacking) * spec.file_bytes())
    claim(folder, "made.json", {**asdict(spec), "hard": HARD, "mislabelled": MISLABELLED})
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _exit_with_parent) as pool:
        results = pool.map(partial(_make_one, folder, spec), files)
        try:
            samples = list(bar(results, len(files), "make"))
        except BrokenExecutor:
            raise DataError(
                f"{folder}: a process that made samples was killed, perhaps for want of memory; start again "
                "to go on"
            ) from None
    save_stats(folder / STATS, samples[: spec.samples])
    return len(lacking)


def path_of(folder: Path, split: str, number: int) -> Path:
    """Return the file of a sample, named after its date and simulation; names sort as numbers do."""
    day, step = divmod(number, _STEPS_A_DAY)
    return (
        folder
        / split
        / f"data-{date(2000, 1, 1) + timedelta(day)}-{step:02d}-{1 + _SPLITS.index(split)}_0.h5"
    )


def _make_one(folder: Path, spec: SyntheticSpec, file: tuple[str, int]) -> Extremes:
    """Write a sample's file if it is missing or damaged; return the extremes of its fields."""
    path = path_of(folder, *file)
    if path.exists():
        try:
            return extremes(path)
        except DataError:
            pass  # damaged when the machine went down
    sample = draw(spec.seed, *file, spec.height, spec.width)
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(exist_ok=True)
        with h5py.File(temporary, "w") as h5:
            climate = h5.create_group("climate")
            climate.attrs["hard"], climate.attrs["mislabelled"] = sample.hard, sample.mislabelled
            climate["data"] = sample.fields
            climate["labels_0"] = sample.mask.astype(np.float32)  # the public files' dtype
        os.replace(temporary, path)
    except OSError as problem:
        raise DataError(f"{path}: cannot be written ({problem})") from None
    return Extremes(sample.fields.min((0, 1)), sample.fields.max((0, 1)))


def _exit_with_parent() -> None:
    """Exit when the parent is killed; this process would wait for work forever."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
