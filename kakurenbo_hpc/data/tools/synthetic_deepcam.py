"""Made weather in files of the public DeepCAM set's layout: ``train/data-*.h5``, ``validation/data-*.h5``, ``stats.h5``.

What was asked for stands in ``made.json``, so that a making that was interrupted goes on, and no two sets are mixed.
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
from .output_folder import claim, need_room
from .stats import Extremes, extremes, save_stats
from .synthetic_climate import CHANNELS, HARD, MISLABELLED, draw

_STEPS_A_DAY = 8
_SPLITS = ("train", "validation")  # their names differ in the number of the simulation, from 1


@dataclass(frozen=True)
class SyntheticSpec:
    """What to make: how many samples to train on and to validate, their height and width in pixels, and the seed of it all."""

    samples: int
    validation: int
    height: int
    width: int
    seed: int

    def files(self) -> list[tuple[str, int]]:
        """Return split and number of every sample."""
        return [("train", i) for i in range(self.samples)] + [
            ("validation", i) for i in range(self.validation)
        ]

    def file_bytes(self) -> int:
        """Return how large a file is, nearly."""
        return 4 * self.height * self.width * (len(CHANNELS) + 1) + 4096


def make(folder: Path, asked: SyntheticSpec, processes: int | None = None) -> int:
    """Make what the folder lacks of this set; return how many files that was. processes: one for each core if not given.

    A file is there when it is whole, and is the same for any number of processes.
    Raises DataError if the folder cannot be written to, holds anything else, or the disk is too small.
    """
    files, workers = asked.files(), processes or len(os.sched_getaffinity(0))
    lacking = [file for file in files if not os.path.exists(path_of(folder, *file))]
    need_room(folder, len(lacking) * asked.file_bytes())
    claim(folder, "made.json", {**asdict(asked), "hard": HARD, "mislabelled": MISLABELLED})
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _leave_with_parent) as pool:
        found = pool.map(partial(_make_one, folder, asked), files)
        try:
            found = list(bar(found, len(files), "make"))
        except BrokenExecutor:
            raise DataError(
                f"{folder}: a process that made samples was killed, perhaps for want of memory; start again to go on"
            ) from None
    save_stats(folder / STATS, found[: asked.samples])
    return len(lacking)


def path_of(folder: Path, split: str, number: int) -> Path:
    """Return the file of a sample, named after its moment and simulation; files in the order of names are in that of numbers."""
    day, step = divmod(number, _STEPS_A_DAY)
    return (
        folder
        / split
        / f"data-{date(2000, 1, 1) + timedelta(day)}-{step:02d}-{1 + _SPLITS.index(split)}_0.h5"
    )


def _make_one(folder: Path, asked: SyntheticSpec, file: tuple[str, int]) -> Extremes:
    """Write a sample's file if it is not there; return the extremes of its fields."""
    path = path_of(folder, *file)
    if path.exists():
        try:
            return extremes(path)
        except DataError:
            pass  # a machine that went down tore it: made again
    sample = draw(asked.seed, *file, asked.height, asked.width)
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(exist_ok=True)
        with h5py.File(beside, "w") as h5:
            climate = h5.create_group("climate")
            climate.attrs["hard"], climate.attrs["mislabelled"] = sample.hard, sample.mislabelled
            climate["data"], climate["labels_0"] = (
                sample.fields,
                sample.mask.astype(np.float32),
            )  # labels as the public files have them
        os.replace(beside, path)
    except OSError as problem:
        raise DataError(f"{path}: cannot be written ({problem})") from None
    return Extremes(sample.fields.min((0, 1)), sample.fields.max((0, 1)))


def _leave_with_parent() -> None:
    """End this process when its parent is killed: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
