"""DeepCAM: climate simulations of 16 channels, in which cyclones and atmospheric rivers are marked; one HDF5 file a sample.

Layout: Kurth et al. 2018, "Exascale Deep Learning for Climate Analytics", as the MLPerf HPC reference reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...config.job import DataOptions
from ...config.options import Count
from ...errors import DataError
from ..dataset import DatasetSplits
from ..hdf5.manifest import Manifest, find, fingerprint, stats_path
from ..hdf5.samples import Hdf5Samples

if TYPE_CHECKING:
    import torch

N_CLASSES = 3  # nothing, cyclone, atmospheric river
DATASETS = ("climate/data", "climate/labels_0")


class DeepCam(DataOptions):
    """path: the folder with train, validation and stats.h5 in it. threads: samples that are read at once."""

    name: Literal["deepcam"]
    path: str
    threads: Count = 4

    def open(self, directory: Path | None = None) -> DatasetSplits:
        root = Path(self.path)
        parts = [find(root, part, DATASETS, True, directory) for part in ("train", "validation")]
        for manifest in parts:
            _check(manifest)
        height, width, channels = parts[0].shapes[0]
        least, most = _stats(root, channels)
        train, validation = (Fields(manifest, least, most, self.threads) for manifest in parts)
        return DatasetSplits(
            train,
            validation,
            N_CLASSES,
            (channels, height, width),
            fingerprint(parts),
            target_shape=(height, width),
        )


class Fields(Hdf5Samples):
    """(H, W, C) in the files, (C, H, W) for the network, each channel from 0 to 1 over all training files.

    least, most: (C,) float32, what is 0 and what is 1.
    """

    def __init__(self, manifest: Manifest, least: np.ndarray, most: np.ndarray, threads: int):
        super().__init__(manifest, None, N_CLASSES, threads)
        self._least, self._range = least, np.where(most > least, most - least, np.float32(1))
        self._on_device: tuple[torch.Tensor, torch.Tensor] | None = None

    def prepare(self, input: torch.Tensor, target: torch.Tensor):
        import torch

        # Copied once: from memory that is not pinned, a copy waits for all that the device has to do.
        if self._on_device is None or self._on_device[0].device != input.device:
            self._on_device = tuple(
                torch.from_numpy(array).to(input.device) for array in (self._least, self._range)
            )
        least, range = self._on_device
        # A view: the channels stay next to each other in memory, as convolutions like them.
        return input.float().sub_(least).div_(range).permute(0, 3, 1, 2), target.long()


def _check(manifest: Manifest) -> None:
    inputs, masks = manifest.shapes
    if len(inputs) != 3 or masks != inputs[:2]:
        raise DataError(
            f"{manifest.path(0)}: {DATASETS[0]} is of shape {inputs} and {DATASETS[1]} of {masks}, but (H, W, channels) and (H, W) are read"
        )


def _stats(root: Path, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the largest value of each channel, two of (C,) float32."""
    import h5py

    path = stats_path(root)
    if not path.exists():
        raise DataError(f"{path}: not there; make it: kakurenbo data stats {root}")
    try:
        with h5py.File(path, "r") as file:
            least, most = (np.asarray(file[f"climate/{name}"], np.float32) for name in ("minval", "maxval"))
    except (OSError, KeyError, TypeError, ValueError):
        raise DataError(
            f"{path}: lacks climate/minval or climate/maxval; remove it and make it: kakurenbo data stats {root}"
        ) from None
    if (
        least.shape != (channels,)
        or most.shape != (channels,)
        or not (np.isfinite(most - least) & (most >= least)).all()
    ):
        raise DataError(
            f"{path}: minval and maxval must be {channels} numbers each, none smaller in maxval; "
            f"remove it and make it: kakurenbo data stats {root}"
        )
    return least, most
