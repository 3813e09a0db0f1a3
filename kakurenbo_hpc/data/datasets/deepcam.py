"""DeepCAM: climate fields of 16 channels with masks of cyclones and atmospheric rivers.

One HDF5 file per sample.
Layout: Kurth et al. 2018, "Exascale Deep Learning for Climate Analytics", as the MLPerf HPC reference reads
it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...config.data_options import DataOptions
from ...config.options import Count, ExpandedPath, option
from ...errors import DataError
from ..dataset import DatasetSplits
from ..hdf5.manifest import Manifest, find, fingerprint, stats_path
from ..hdf5.samples import Hdf5Samples

if TYPE_CHECKING:
    import torch

N_CLASSES = 3  # background, cyclone, atmospheric river
HDF5_DATASETS = ("climate/data", "climate/labels_0")


class DeepCam(DataOptions):
    """DeepCAM's climate fields, or files of the same layout."""

    name: Literal["deepcam"] = option(..., "Climate fields with masks, one HDF5 file per sample.")
    path: ExpandedPath = option(..., "The folder that holds train/, validation/ and stats.h5.")
    threads: Count = option(4, "Samples that a rank reads at once, where workers is 0.", "threads")

    def open(self, directory: Path | None = None) -> DatasetSplits:
        """Look up the files and read their statistics.

        Raises:
            DataError: files or statistics are missing, damaged or do not fit together.
        """
        root = Path(self.path)
        manifests = [find(root, split, HDF5_DATASETS, True, directory) for split in ("train", "validation")]
        for manifest in manifests:
            _check_shapes(manifest)
        height, width, channels = manifests[0].shapes[0]
        low, high = _read_stats(root, channels)
        train, validation = (Fields(manifest, low, high, self.threads) for manifest in manifests)
        return DatasetSplits(
            train,
            validation,
            N_CLASSES,
            (channels, height, width),
            fingerprint(manifests),
            target_shape=(height, width),
        )


class Fields(Hdf5Samples):
    """Climate fields, (H, W, C) in the files, (C, H, W) as inputs, with channels from 0 to 1."""

    def __init__(self, manifest: Manifest, low: np.ndarray, high: np.ndarray, threads: int):
        """Prepare to read.

        Args:
            manifest: of the files.
            low: (C,) float32, what becomes 0.
            high: (C,) float32, what becomes 1.
            threads: samples that are read at once.
        """
        super().__init__(manifest, None, N_CLASSES, threads)
        self._low, self._span = low, np.where(high > low, high - low, np.float32(1))
        self._on_device: tuple[torch.Tensor, torch.Tensor] | None = None

    def prepare(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalise the fields."""
        import torch

        # Copied once: from memory that is not pinned, a copy waits for everything queued on the device.
        if self._on_device is None or self._on_device[0].device != inputs.device:
            self._on_device = (
                torch.from_numpy(self._low).to(inputs.device),
                torch.from_numpy(self._span).to(inputs.device),
            )
        low, span = self._on_device
        # A view: channels stay next to each other in memory, the layout that is fast for convolutions.
        return inputs.float().sub_(low).div_(span).permute(0, 3, 1, 2), targets.long()


def _check_shapes(manifest: Manifest) -> None:
    inputs, masks = manifest.shapes
    if len(inputs) != 3 or masks != inputs[:2]:
        raise DataError(
            f"{manifest.path(0)}: {HDF5_DATASETS[0]} is of shape {inputs} and {HDF5_DATASETS[1]} of {masks}, "
            "but (H, W, channels) and (H, W) are read"
        )


def _read_stats(root: Path, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest value of each channel, two of (C,) float32."""
    import h5py

    path = stats_path(root)
    if not path.exists():
        raise DataError(f"{path}: missing; make it: kakurenbo data stats {root}")
    try:
        with h5py.File(path, "r") as file:
            low, high = (np.asarray(file[f"climate/{name}"], np.float32) for name in ("minval", "maxval"))
    except (OSError, KeyError, TypeError, ValueError):
        raise DataError(
            f"{path}: lacks climate/minval or climate/maxval; remove it and make it: kakurenbo data stats "
            f"{root}"
        ) from None
    if (
        low.shape != (channels,)
        or high.shape != (channels,)
        or not (np.isfinite(high - low) & (high >= low)).all()
    ):
        raise DataError(
            f"{path}: minval and maxval must be {channels} numbers each, none smaller in maxval; "
            f"remove it and make it: kakurenbo data stats {root}"
        )
    return low, high
