"""How fast images come from a folder and packed, beside torchvision's ImageFolder and DataLoader.

JPEGs of 500 x 375 pixels, made with the spectrum of photographs (amplitude 1 / frequency), under
random_resized_crop, flip and normalize; everything in one process on one core, in CPU seconds. Where the
file system is said to be throttled, a millisecond is added for each file that a contender opens, as a busy
metadata server would; Python's open() is replaced by one that counts. Called by bench_data.py.
"""

from __future__ import annotations

import builtins
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from bench_common import header, median, spread, verdict
from PIL import Image

from kakurenbo_hpc.config.augmentation_options import STATISTICS
from kakurenbo_hpc.core.torchvision_compat import transforms
from kakurenbo_hpc.data import DATASETS, open_data
from kakurenbo_hpc.data import read_at as reads
from kakurenbo_hpc.data.dataset import Dataset, ReadRequest
from kakurenbo_hpc.data.tools.pack import pack
from kakurenbo_hpc.distributed.comm import SerialComm

BATCH, SIZES, OPEN_S = 64, (176, 224), 1e-3
QUALITY = 85
SCALED, FULL, THROTTLED = 1.5, 1.15, 3.0  # wanted: times as fast as ImageFolder; packed as the folder


def images(n_trials: int, n_files: int) -> str:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        root = Path(folder)
        n_bytes = _write(root / "images", n_files)
        pack(root / "images", root / "packed", encoded=True)
        seconds = {}
        for size in SIZES:
            contenders = {
                "ImageFolder": _torchvision(root / "images", size),
                **{
                    f"{place}, {decode}": _ours(root / place, size, decode)
                    for place in ("images", "packed")
                    for decode in ("full", "scaled")
                },
            }
            seconds[f"{size} px"] = _in_turn(contenders, n_trials)
            with _throttled():
                seconds[f"{size} px, throttled"] = _in_turn(contenders, n_trials)
        reading = {"images": _contents(root / "images"), "packed": _contents(root / "packed")}
        with _throttled():
            seconds["bytes alone, throttled"] = _in_turn(reading, n_trials)
    return _report(seconds, n_trials, n_files, n_bytes)


def _report(seconds: dict, n_trials: int, n_files: int, n_bytes: int) -> str:
    def times(setting: str, one: str, other: str) -> float:
        pairs = zip(seconds[setting][one], seconds[setting][other], strict=True)
        return median(b / a for a, b in pairs)

    lines = [
        *(
            f"result:    {size} pixels, times as fast as ImageFolder and DataLoader: "
            + ", ".join(
                f"{times(f'{size} px', name, 'ImageFolder'):.2f} from {name}"
                for name in ("images, full", "images, scaled", "packed, full", "packed, scaled")
            )
            for size in SIZES
        ),
        header(
            ("numpy", "torch", "torchvision", "pillow", "simplejpeg"),
            f"median [quartiles] of {n_trials} passes in batches of {BATCH}, in random order, after "
            f"one to warm up; CPU seconds, and where throttled {OPEN_S:g} s more for each file opened",
        ),
        f"data:      {n_files} JPEGs of 500 x 375 pixels, {n_bytes / n_files / 1e3:.0f} kB each",
    ]
    for setting, found in seconds.items():
        lines += ["", f"{setting}: images per second and core"]
        lines += [f"  {name:<16} {spread([n_files / s for s in taken], 0)}" for name, taken in found.items()]
    lines.append("")
    for size in SIZES:
        scaled, full = (times(f"{size} px", f"images, {how}", "ImageFolder") for how in ("scaled", "full"))
        slow = times(f"{size} px, throttled", "packed, scaled", "images, scaled")
        lines += [
            verdict(scaled >= SCALED, f"{SCALED:g} times ImageFolder at {size}, scaled: {scaled:.2f}"),
            verdict(full >= FULL, f"{FULL:g} times ImageFolder at {size}, in full: {full:.2f}"),
            verdict(
                slow >= THROTTLED, f"{THROTTLED:g} times our folder at {size}, packed, throttled: {slow:.2f}"
            ),
        ]
    alone = times("bytes alone, throttled", "packed", "images")
    lines.append(
        verdict(alone >= THROTTLED, f"{THROTTLED:g} times the folder, bytes alone, throttled: {alone:.2f}")
    )
    return "\n".join(lines)


def _write(root: Path, n: int) -> int:
    """Write n images of two classes to train on, and one of each to validate; return the bytes of the n."""
    rng, n_bytes = np.random.default_rng(0), 0
    for split, number in [("train", i) for i in range(n)] + [("val", 0), ("val", 1)]:
        content = io.BytesIO()
        _photograph(rng).save(content, "JPEG", quality=QUALITY)
        path = root / split / f"class_{number % 2}" / f"{number:05d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        n_bytes += path.write_bytes(content.getvalue()) * (split == "train")
    return n_bytes


def _photograph(rng: np.random.Generator, height: int = 375, width: int = 500) -> Image.Image:
    """Return noise with the spectrum of photographs, and colours as correlated as theirs.

    Source: Field 1987, "Relations between the statistics of natural images and the response properties of
    cortical cells".
    """
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    frequency[0, 0] = 1 / max(height, width)
    spectra = np.fft.fft2(rng.standard_normal((3, height, width))) / frequency
    planes = np.fft.ifft2(spectra).real
    planes *= np.array([55, 12, 12])[:, None, None] / planes.std((1, 2), keepdims=True)
    pixels = np.clip(planes + 128, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return Image.fromarray(pixels, "YCbCr").convert("RGB")


def _torchvision(root: Path, size: int) -> Callable[[], object]:
    transforms()
    from torchvision import transforms as v1
    from torchvision.datasets import ImageFolder

    steps = [v1.RandomResizedCrop(size), v1.RandomHorizontalFlip(), v1.ToTensor()]
    view = v1.Compose([*steps, v1.Normalize(*STATISTICS["imagenet"])])
    loader = torch.utils.data.DataLoader(
        ImageFolder(root / "train", transform=view), batch_size=BATCH, shuffle=True
    )
    return lambda: [None for _ in loader]


def _ours(root: Path, size: int, decode: str) -> Callable[[], object]:
    options = DATASETS["image_folder"](
        name="image_folder",
        path=str(root),
        threads=1,
        decode=decode,
        augmentation=[{"random_resized_crop": size}, "flip", {"normalize": "imagenet"}],
        evaluation=[{"resize": 256}, {"center_crop": 224}, {"normalize": "imagenet"}],
    )
    train: Dataset = open_data(options, 0, SerialComm()).train
    rng = np.random.default_rng(0)

    def read() -> None:
        epoch, order = int(rng.integers(1 << 30)), rng.permutation(len(train))
        for start in range(0, len(order), BATCH):
            ids = order[start : start + BATCH]
            train.__getitems__(ReadRequest(ids, np.zeros(len(ids), np.int32), epoch, augment=True))

    return read


def _contents(root: Path) -> Callable[[], object]:
    train = DATASETS["image_folder"](name="image_folder", path=str(root)).open().train
    return lambda: [train._content(row) for row in train._listing.rows()]


def _in_turn(contenders: dict[str, Callable[[], object]], n_trials: int) -> dict[str, list[float]]:
    """Return the CPU seconds that each contender takes, and those of its throttled opens.

    Their order is drawn anew for each trial: what one leaves of memory costs the next one page faults.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    rng = np.random.default_rng(0)
    for _ in range(n_trials + 1):
        for name in map(str, rng.permutation(list(contenders))):
            opened, begun = _opened[0], time.process_time()
            contenders[name]()
            seconds[name].append(time.process_time() - begun + OPEN_S * (_opened[0] - opened))
    return {name: taken[1:] for name, taken in seconds.items()}


_opened = [0]  # files, while the file system is throttled


@contextmanager
def _throttled() -> Iterator[None]:
    """Count the files that are opened in Python."""
    real_open, real_file = io.open, io.FileIO

    def counting(work: Callable) -> Callable:
        def opened(*words, **options):
            _opened[0] += 1
            return work(*words, **options)

        return opened

    with (
        mock.patch.object(builtins, "open", counting(real_open)),
        mock.patch.object(io, "open", counting(real_open)),
        mock.patch.object(reads, "FileIO", counting(real_file)),
    ):
        yield
