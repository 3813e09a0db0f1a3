"""How fast samples come: one process, as a rank without loader processes reads them.

    python scripts/bench_data.py deepcam
    python scripts/bench_data.py visual_atoms
    python scripts/bench_data.py images

deepcam: whole samples, 768 x 1152 x 16, by us, as the MLPerf HPC reference reads them (h5py: open, index by
the list of all channels, close), by h5py without that list, and by a plain readinto of the same files; from
the page cache and from the disk; with threads; and the memory that it takes, beside the samples that may be
in flight.
visual_atoms: images drawn from their formula, in random order, a batch at a time, beside the same images read
from memory; and what each training augmentation adds.
images: JPEGs from a folder and packed, beside torchvision's ImageFolder and DataLoader: see bench_images.py.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import torch
from bench_common import LEAST_TRIALS, header, median, spread, verdict
from bench_images import images

from kakurenbo_hpc.config.augmentations import AUGMENTATIONS
from kakurenbo_hpc.data import DATASETS, open_data
from kakurenbo_hpc.data.dataset import Dataset, ReadRequest
from kakurenbo_hpc.data.datasets.deepcam import HDF5_DATASETS, N_CLASSES
from kakurenbo_hpc.data.datasets.digits import Images
from kakurenbo_hpc.data.hdf5.manifest import find
from kakurenbo_hpc.data.hdf5.samples import Hdf5Samples
from kakurenbo_hpc.distributed.comm import SerialComm

BATCH = 256
SIZES = (16, 32, 64)
WANTED = 5000  # images of 32 x 32 per second


def visual_atoms(n_trials: int) -> str:
    names = [
        name
        for name, options in AUGMENTATIONS.items()
        if not any(f.is_required() for f in options.model_fields.values())
    ]
    plain = {f"{size} px": _train(pixels=size) for size in SIZES}
    drawn, kept = plain["32 px"], _in_memory(plain["32 px"])
    seconds = measure({**plain, "in memory": kept}, n_trials)
    augmented = measure(
        {"none": kept} | {name: _train(augmentation=[name], pixels=32) for name in names}, n_trials
    )
    per_second = {name: [BATCH / s for s in seconds[name]] for name in plain}
    beside = [a / b for a, b in zip(seconds["32 px"], seconds["in memory"], strict=True)]
    reached = median(per_second["32 px"])
    lines = [
        f"result:    {reached:,.0f} images of 32 x 32 drawn per second by one thread",
        f"           drawn / read from memory: {spread(beside, 1)}",
        header(
            ("numpy", "torch", "torchvision"),
            f"median [quartiles] of {n_trials} batches, contenders in turn, after one to warm up",
        ),
        f"data:      visual_atoms, {len(drawn):,} samples, batches of {BATCH} in random order",
        "",
        "images per second",
        *(f"  {name:<8} {spread(rate, 0)}" for name, rate in per_second.items()),
        "augmentation, microseconds for each image of 32 x 32, drawing it included",
        *(f"  {name:<21} {spread([1e6 * s / BATCH for s in augmented[name]], 1)}" for name in names),
        "",
        verdict(reached >= WANTED, f"{WANTED:,} images of 32 x 32 per second and core: {reached:,.0f}"),
    ]
    return "\n".join(lines)


CHANNELS = list(range(16))  # by which the reference indexes, all of them by default
THREADS = (1, 2, 4, 8)
TIMES_REFERENCE, OF_READINTO = 2.0, 0.85  # what is wanted, with one thread and a warm cache


def deepcam(n_trials: int, n_files: int, size: tuple[int, int]) -> str:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        root = Path(folder)
        shape = (*size, len(CHANNELS))
        n_bytes = _write(root, n_files, shape)
        manifest = find(root, "train", HDF5_DATASETS, True, None)
        ours = {n: _Unprepared(manifest, None, N_CLASSES, n) for n in THREADS}
        paths = [manifest.path(file) for file in range(n_files)]
        buffer = np.empty(max(path.stat().st_size for path in paths), np.uint8)
        prepared = DATASETS["deepcam"](name="deepcam", path=str(root), threads=1).open().train
        contenders = {
            "ours": lambda: _all(ours[1]),
            "reference": lambda: _each(lambda path: _by_h5py(path, (..., CHANNELS)), paths),
            "h5py": lambda: _each(_by_h5py, paths),
            "readinto": lambda: _each(lambda path: _plainly(path, buffer), paths),
            "ours, prepared": lambda: _all(prepared),
            "reference, prepared": lambda: _each(lambda path: _as_reference(path, root), paths),
            **{f"ours, {n} threads": lambda n=n: _all(ours[n]) for n in THREADS[1:]},
            **{f"h5py, {n} threads": lambda n=n: _by_threads(paths, n) for n in THREADS[1:]},
        }
        warm = in_turn(contenders, n_trials)
        cold = in_turn(
            {name: contenders[name] for name in ("ours", "h5py", "readinto", "ours, 4 threads")},
            n_trials,
            lambda: _forget(paths),
        )
        grown = {n: _grown(_Unprepared(manifest, None, N_CLASSES, n)) / n_bytes * n_files for n in THREADS}
    speed = {name: [n_bytes / s / 1e9 for s in seconds] for name, seconds in warm.items()}

    def beside(a: str, b: str, seconds: dict = warm) -> list[float]:
        return [y / x for x, y in zip(seconds[a], seconds[b], strict=True)]

    reference, readinto = median(beside("ours", "reference")), median(beside("ours", "readinto"))
    lines = [
        f"result:    {spread(beside('ours', 'reference'), 2)} times as fast as the reference,",
        f"           {spread(beside('ours', 'h5py'), 2)} as h5py at its best, "
        f"{spread(beside('ours', 'readinto'), 2)} of a plain readinto",
        header(
            ("numpy", "torch", "h5py"),
            f"median [quartiles] of {n_trials} passes over the files, contenders in turn, after one to "
            "warm up",
        ),
        f"data:      {len(paths)} files of {n_bytes / len(paths) / 1e6:.0f} MB, samples "
        f"{' x '.join(map(str, shape))} float32 and masks",
        "",
        "GB per second from the page cache",
        *(f"  {name:<19} {spread(speed[name], 2)}" for name in contenders),
        "times as fast as h5py with as many threads, whose lock is one for the process",
        *(
            f"  {n} threads{'':<10} {spread(beside(f'ours, {n} threads', f'h5py, {n} threads'), 2)}"
            for n in THREADS[1:]
        ),
        "ready to train, float32 from 0 to 1 by channel, beside the reference's way",
        f"  times as fast       {spread(beside('ours, prepared', 'reference, prepared'), 2)}",
        "GB per second from the disk, pages dropped before every pass",
        *(f"  {name:<19} {spread([n_bytes / s / 1e9 for s in cold[name]], 2)}" for name in cold),
        "memory, in samples, from before the first read, and how many may be in flight: one in use, the "
        "next, and the threads'",
        *(f"  {f'{n} thread' + 's' * (n > 1):<19} {grown[n]:.2f} of {n + 2}" for n in THREADS),
        "",
        verdict(
            reference >= TIMES_REFERENCE, f"{TIMES_REFERENCE:g} times the reference's speed: {reference:.2f}"
        ),
        verdict(readinto >= OF_READINTO, f"{OF_READINTO:g} of readinto's speed: {readinto:.2f}"),
        verdict(
            all(round(grown[n]) <= n + 2 for n in THREADS), "memory of no more samples than are in flight"
        ),
    ]
    return "\n".join(lines)


class _Unprepared(Hdf5Samples):
    """Samples as the files have them: reading alone."""

    def prepare(self, input, target):
        return input, target


def _write(root: Path, n: int, shape: tuple[int, int, int]) -> int:
    """Write n samples to train on and one to validate; return the bytes of the n."""
    rng = np.random.default_rng(0)
    noise = rng.random(shape, np.float32)
    for part, number in [("validation", 0), *(("train", number) for number in range(n))]:
        (root / part).mkdir(exist_ok=True)
        with h5py.File(root / part / f"data-{number:04d}.h5", "w") as file:
            file[HDF5_DATASETS[0]], file[HDF5_DATASETS[1]] = (
                noise + np.float32(number),
                np.zeros(shape[:2], np.float32),
            )
    with h5py.File(root / "stats.h5", "w") as file:
        file["climate/minval"], file["climate/maxval"] = (
            np.zeros(shape[2], np.float32),
            np.full(shape[2], n + 1, np.float32),
        )
    return n * 4 * (math.prod(shape) + math.prod(shape[:2]))


def _all(source: Hdf5Samples) -> None:
    for _ in _one_by_one(source):
        pass


def _one_by_one(source: Hdf5Samples) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    requests = [ReadRequest(np.array([id]), np.zeros(1, np.int32), 0, False) for id in range(len(source))]
    return source.stream(requests, torch.device("cpu"))


def _each(read: Callable[[Path], object], paths: Sequence[Path]) -> None:
    for path in paths:
        read(path)


def _by_h5py(path: Path, index: object = ...) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(path, "r") as file:
        return file[HDF5_DATASETS[0]][index], file[HDF5_DATASETS[1]][...]


def _as_reference(path: Path, root: Path) -> tuple[torch.Tensor, torch.Tensor]:
    input, mask = _by_h5py(path, (..., CHANNELS))
    with h5py.File(root / "stats.h5", "r") as file:
        least, most = file["climate/minval"][...], file["climate/maxval"][...]
    return torch.from_numpy(((input - least) * (1 / (most - least))).transpose(2, 0, 1)), torch.from_numpy(
        mask.astype(np.int64)
    )


def _by_threads(paths: Sequence[Path], n: int) -> None:
    with ThreadPoolExecutor(n) as pool:
        for _ in pool.map(_by_h5py, paths):
            pass


def _plainly(path: Path, buffer: np.ndarray) -> None:
    with open(path, "rb", buffering=0) as file:
        left = memoryview(buffer)
        while n := file.readinto(left):
            left = left[n:]


def _forget(paths: Sequence[Path]) -> None:
    """Drop the files' pages from the page cache."""
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _grown(fresh: Hdf5Samples) -> int:
    """Return by how many bytes this process is larger, at most, while a source reads for the first time."""
    before, most = _memory(), 0
    for _ in _one_by_one(fresh):
        most = max(most, _memory())
    return most - before


def _memory() -> int:
    """Return the bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def in_turn(
    contenders: dict[str, Callable[[], object]], n_trials: int, before: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Return the seconds that each contender takes, called in turn; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(n_trials + 1):
        for name, run in contenders.items():
            before()
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    return {name: taken[1:] for name, taken in seconds.items()}


def measure(sources: dict[str, Dataset], n_trials: int) -> dict[str, list[float]]:
    """Return the seconds that each source takes for a batch, in turn."""
    rng = np.random.default_rng(0)
    seconds = {name: [] for name in sources}
    for number in range(n_trials + 1):
        for name, source in sources.items():
            id = rng.integers(0, len(source), BATCH)
            begun = time.perf_counter()
            source.__getitems__(ReadRequest(id, np.zeros(BATCH, np.int32), epoch=number, augment=True))
            seconds[name].append(time.perf_counter() - begun)
    return {name: taken[1:] for name, taken in seconds.items()}


def _train(**options) -> Dataset:
    return open_data(
        DATASETS["visual_atoms"](name="visual_atoms", **options), seed=0, comm=SerialComm()
    ).train


def _in_memory(source: Dataset) -> Dataset:
    id = np.arange(len(source))
    input, target = source.__getitems__(ReadRequest(id, np.zeros(len(id), np.int32), epoch=0, augment=False))
    return Images(input.numpy(), target.numpy())


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", choices=["deepcam", "visual_atoms", "images"])
    parser.add_argument(
        "--trials", type=int, help="passes or batches of each contender (default: 10 passes, or 100 batches)"
    )
    parser.add_argument("--files", type=int, help="deepcam, images: samples to read (default: 16, 128)")
    parser.add_argument(
        "--size",
        default="768,1152",
        help="deepcam: height and width (default: 768,1152, as in the public set)",
    )
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    if given.data == "deepcam":
        height, width = map(int, given.size.split(","))
        print(deepcam(given.trials or LEAST_TRIALS, given.files or 16, (height, width)))
    elif given.data == "images":
        print(images(given.trials or LEAST_TRIALS, given.files or 128))
    else:
        print(visual_atoms(given.trials or 10 * LEAST_TRIALS))


if __name__ == "__main__":
    main(sys.argv[1:])
