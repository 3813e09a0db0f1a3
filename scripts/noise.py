"""Data of noise, in memory, and jobs on it: for measuring what a device does, whatever is trained."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from kakurenbo_hpc.config.data_options import DataOptions
from kakurenbo_hpc.config.job import Job, read_job
from kakurenbo_hpc.config.options import Count, option
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.data.dataset import Dataset, DatasetSplits, ReadRequest
from kakurenbo_hpc.selection import METHODS

_N_DISTINCT = 64  # images in memory, which samples share


class Noise(DataOptions):
    """Images of noise with classes, or masks, of noise."""

    name: str = option(..., "noise:Noise")
    n: Count = option(512, "Training samples.", "samples")
    shape: list[Count] = option([3, 32, 32], "Of an image, channels first.")
    classes: Count = option(10, "Their number.")
    masks: bool = option(False, "Whether every pixel has a class.")

    def open(self, directory: Path | None = None) -> DatasetSplits:
        """Draw the images."""
        drawn = np.random.default_rng(self.seed)
        images = drawn.standard_normal((_N_DISTINCT, *self.shape), np.float32)
        target_shape = tuple(self.shape[1:]) if self.masks else ()
        targets = drawn.integers(
            self.classes, size=(self.n, *target_shape) if not self.masks else (_N_DISTINCT, *target_shape)
        )
        return DatasetSplits(
            train=Images(images, targets, self.n),
            validation=Images(images, targets, 2),
            n_classes=self.classes,
            shape=tuple(self.shape),
            fingerprint=f"noise {self.model_dump()}",
            target_shape=target_shape,
        )


class Images(Dataset):
    """N samples of a few images and at most as many targets, each used again and again."""

    def __init__(self, images: np.ndarray, targets: np.ndarray, n: int):
        """Keep the arrays: images (M, C, H, W) float32, targets (M or N, ...) int64."""
        self._images, self._targets, self._n = torch.from_numpy(images), torch.from_numpy(targets), n

    def __len__(self) -> int:
        return self._n

    def __getitems__(self, request: ReadRequest) -> tuple[torch.Tensor, torch.Tensor]:
        """Read a batch."""
        ids = torch.from_numpy(request.id)
        return self._images[ids % len(self._images)], self._targets[ids % len(self._targets)]


def noise_job(method: str, model: Mapping[str, Any], data: Mapping[str, Any], **training: Any) -> Job:
    """Return a job on noise, at a constant rate.

    Args:
        method: of selection; kakurenbo hides its full fraction.
        model: the section model.
        data: options of ``Noise``.
        training: the section training.
    """
    selection = {
        "method": method,
        **({"reduce_fraction": False, "move_back": False} if method == "kakurenbo" else {}),
    }
    job = {
        "name": "noise",
        "seed": 1,
        "data": {"name": "noise:Noise", **data},
        "model": dict(model),
        "training": {"lr": 0.01, "schedule": "constant", "warmup_epochs": 0, **training},
        "selection": selection,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.yaml"
        path.write_text(yaml.safe_dump(job))
        return read_job(path, [], DATASETS, METHODS)
