"""Jobs and comparisons of the four papers, how many nodes of four GPUs they need, and their data in small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from kakurenbo_hpc.config.package_files import jobs_dir
from kakurenbo_hpc.data.tools.synthetic_deepcam import SyntheticSpec, make

from .original_formats import make_images, write_cifar_binary, write_cifar_python, write_svhn

PAPERS = ("kakurenbo", "infobatch", "selective_backprop", "sample_importance")
_FILES = sorted(path for paper in PAPERS for path in (jobs_dir() / paper).glob("*.yaml"))
COMPARISONS = [path for path in _FILES if "\ncontenders:" in path.read_text()]
JOBS = [str(path.relative_to(jobs_dir()).with_suffix("")) for path in _FILES if path not in COMPARISONS]
_NODES = {
    "kakurenbo/deepcam": 256,
    "kakurenbo/deit_tiny_cifar10": 2,
    "kakurenbo/deit_tiny_cifar100": 2,
    "infobatch/resnet18_imagenet": 2,
    "infobatch/resnet50_imagenet": 2,
}
N_TRAIN, N_VALIDATION = 16, 6
_BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def nodes_of(job: str) -> int:
    """Return the nodes of four GPUs that the paper ran a job on; 1 where it does not say."""
    return _NODES.get(job, 8 if job.startswith("kakurenbo/") else 1)


def write_data(folder: Path) -> None:
    """Write each data set of the jobs, in small, as it is downloaded, below ``folder/data``."""
    data = folder / "data"
    parts = [make_images(n, 10, seed=n) for n in (4, 3, 3, 3, 3, N_VALIDATION)]
    write_cifar_binary(data / "cifar10" / "cifar-10-batches-bin", _BATCHES, parts)
    parts = [make_images(n, 100, seed=n) for n in (N_TRAIN, N_VALIDATION)]
    write_cifar_python(data / "cifar100" / "cifar-100-python", ["train", "test"], parts, "fine_labels")
    for name, n in (("train", N_TRAIN // 2), ("extra", N_TRAIN // 2), ("test", N_VALIDATION)):
        write_svhn(data / "svhn" / f"{name}_32x32.mat", *make_images(n, 10, seed=n))
    for name, size, kind in (("imagenet", (70, 50), "JPEG"), ("fractal3k", (64, 64), "png")):
        for split, n in (("train", N_TRAIN), ("val", N_VALIDATION)):
            for i in range(n):
                mode = "CMYK" if (name, i) == ("imagenet", 1) else "RGB"
                make_picture(i, size, mode, data / name / split / f"class{i % 3}" / f"{i}.{kind}")
    _write_tiny_imagenet(data / "tiny-imagenet-200")
    make(data / "deepcam", SyntheticSpec(N_TRAIN, N_VALIDATION, 32, 48, seed=1), processes=1)


def _write_tiny_imagenet(root: Path) -> None:
    for i in range(N_TRAIN):
        name = f"n0{i % 3}"
        make_picture(i, (64, 64), "RGB", root / "train" / name / "images" / f"{name}_{i}.JPEG")
    rows = []
    for i in range(N_VALIDATION):
        make_picture(i, (64, 64), "RGB", root / "val" / "images" / f"val_{i}.JPEG")
        rows.append(f"val_{i}.JPEG\tn0{i % 3}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(rows))


def make_picture(seed: int, size: tuple[int, int], mode: str, path: Path, kind: str | None = None) -> None:
    """Write a picture of soft colours. kind: its format, whatever its name ends in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8))
    coarse.resize(size, Image.Resampling.BICUBIC).convert(mode).save(path, kind)
