"""How fast samples come: one process, as a rank without loader processes reads them.

    python scripts/bench_data.py deepcam
    python scripts/bench_data.py visual_atoms
    python scripts/bench_data.py images

deepcam: whole samples, 768 x 1152 x 16, ready to train (scaled by channel, masks as int64), by us in every
layout and precision, and as the MLPerf HPC reference makes them (h5py: open, index by the list of all
channels, close; then numpy); beside h5py's and a plain readinto's reading alone of the same files; from the
page cache and from the disk, through the cache and past it; with threads; and the memory that it takes,
beside the samples that may be in flight.
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
from functools import cache, partial
from pathlib import Path

import h5py
import numpy as np
import torch
from bench_common import LEAST_TRIALS, header, median, spread, verdict
from bench_images import images

from kakurenbo_hpc.config.augmentation_options import AUGMENTATIONS
from kakurenbo_hpc.data import DATASETS, open_data
from kakurenbo_hpc.data.dataset import Dataset, ReadRequest
from kakurenbo_hpc.data.datasets.deepcam import HDF5_DATASETS
from kakurenbo_hpc.data.datasets.digits import Images
from kakurenbo_hpc.data.hdf5.blocks import can_read_directly
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
        and name not in ("random_scale", "random_crop")  # for images with masks
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
TIMES_REFERENCE = 4.5  # wanted of one thread with a warm cache
OF_READINTO, OF_READINTO_FIRST = 0.45, 0.3  # channels last, and first


def deepcam(n_trials: int, n_files: int, size: tuple[int, int]) -> str:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        root = Path(folder)
        shape = (*size, len(CHANNELS))
        n_bytes = _write(root, n_files, shape)
        forms = {
            "ours": _deepcam(root),
            "ours, first": _deepcam(root, layout="channels_first"),
            **{f"ours, {name}": _deepcam(root, precision=name) for name in ("fp16", "bf16")},
            "ours, fp16, first": _deepcam(root, precision="fp16", layout="channels_first"),
        }
        paths = sorted((root / "train").iterdir())
        buffer = np.empty(max(path.stat().st_size for path in paths), np.uint8)
        contenders = {name: partial(_all, source) for name, source in forms.items()} | {
            "reference": lambda: _each(lambda path: _as_reference(path, root), paths),
            "h5py, alone": lambda: _each(_by_h5py, paths),
            "readinto, alone": lambda: _each(lambda path: _plainly(path, buffer), paths),
        }
        warm = in_turn(contenders, n_trials, clock=time.process_time)
        by_threads = {"ours": contenders["ours"]} | {
            f"ours, {n} threads": partial(_all, _deepcam(root, threads=n)) for n in THREADS[1:]
        }
        threaded = in_turn(by_threads, n_trials)
        threads = (1, 4) if can_read_directly(paths[0]) else ()
        past = {n: _deepcam(root, threads=n, direct=True) for n in threads}
        cold = in_turn(
            {name: by_threads[name] for name in ("ours", "ours, 4 threads")}
            | {"readinto, alone": contenders["readinto, alone"]}
            | {f"ours, direct, {n}": partial(_all, source) for n, source in past.items()},
            n_trials,
            lambda: _forget(paths),
        )
        grown = {n: _grown(_deepcam(root, threads=n)) / n_bytes * n_files for n in THREADS}
    speed = {name: [n_bytes / s / 1e9 for s in seconds] for name, seconds in warm.items()}

    def beside(a: str, b: str) -> list[float]:
        return [y / x for x, y in zip(warm[a], warm[b], strict=True)]

    reference, last, first = (
        median(beside(*pair))
        for pair in (("ours", "reference"), ("ours", "readinto, alone"), ("ours, first", "readinto, alone"))
    )
    lines = [
        f"result:    {spread(beside('ours', 'reference'), 2)} times as fast as the reference, ready to train",
        f"           {spread(beside('ours', 'readinto, alone'), 2)} of a plain readinto, channels first "
        f"{spread(beside('ours, first', 'readinto, alone'), 2)}",
        header(
            ("numpy", "torch", "h5py"),
            f"median [quartiles] of {n_trials} passes over the files, contenders in turn, after one to "
            "warm up; CPU seconds where threads are not compared and pages are cached",
        ),
        f"data:      {len(paths)} files of {n_bytes / len(paths) / 1e6:.0f} MB, samples "
        f"{' x '.join(map(str, shape))} float32 and masks",
        "",
        "GB of file per CPU second of one thread from the page cache, and of a plain readinto",
        *(
            f"  {name:<19} {spread(speed[name], 2):<20} {spread(beside(name, 'readinto, alone'), 2)}"
            for name in contenders
        ),
        "GB per second from the page cache, by threads",
        *(f"  {name:<19} {spread([n_bytes / s / 1e9 for s in threaded[name]], 2)}" for name in threaded),
        "GB per second from the disk, pages dropped before every pass",
        *(f"  {name:<19} {spread([n_bytes / s / 1e9 for s in cold[name]], 2)}" for name in cold),
        "memory, in samples, from before the first read, and how many may be in flight: one in use, the "
        "next, and the threads'",
        *(f"  {f'{n} thread' + 's' * (n > 1):<19} {grown[n]:.2f} of {n + 2}" for n in THREADS),
        "",
        verdict(
            reference >= TIMES_REFERENCE, f"{TIMES_REFERENCE:g} times the reference's speed: {reference:.2f}"
        ),
        verdict(last >= OF_READINTO, f"{OF_READINTO:g} of readinto's speed: {last:.2f}"),
        verdict(
            first >= OF_READINTO_FIRST,
            f"{OF_READINTO_FIRST:g}, channels first: {first:.2f}",
        ),
        verdict(
            all(round(grown[n]) <= n + 2 for n in THREADS), "memory of no more samples than are in flight"
        ),
    ]
    return "\n".join(lines)


def _deepcam(root: Path, threads: int = 1, **options) -> Hdf5Samples:
    return DATASETS["deepcam"](name="deepcam", path=str(root), threads=threads, **options).open().train


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


def _as_reference(path: Path, root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return what CamDataset of mlcommons/hpc does."""
    input, mask = _by_h5py(path, (..., CHANNELS))
    shift, scale = _constants(root)
    return np.transpose(scale * (input - shift), (2, 0, 1)), mask.astype(np.int64)


@cache
def _constants(root: Path) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(root / "stats.h5", "r") as file:
        shift, most = file["climate/minval"][...], file["climate/maxval"][...]
    return shift, 1 / (most - shift)


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
    contenders: dict[str, Callable[[], object]],
    n_trials: int,
    before: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds that each contender takes, called in turn; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(n_trials + 1):
        for name, run in contenders.items():
            before()
            begun = clock()
            run()
            seconds[name].append(clock() - begun)
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
