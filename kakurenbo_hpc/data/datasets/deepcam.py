"""DeepCAM: climate fields of 16 channels with masks of cyclones and atmospheric rivers.

One HDF5 file per sample.
Layout: Kurth et al. 2018, "Exascale Deep Learning for Climate Analytics", as the MLPerf HPC reference reads
it; channels are scaled by its arithmetic.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...config.data_options import DataOptions
from ...config.options import Count, ExpandedPath, option
from ...errors import DataError
from ..dataset import DatasetSplits
from ..hdf5.blocks import can_read_directly
from ..hdf5.manifest import Manifest, find, fingerprint, stats_path
from ..hdf5.samples import Hdf5Samples
from ..hdf5.scaling import ChannelScaling, Precision

if TYPE_CHECKING:
    import torch

N_CLASSES = 3  # background, cyclone, atmospheric river
HDF5_DATASETS = ("climate/data", "climate/labels_0")


class DeepCam(DataOptions):
    """DeepCAM's climate fields, or files of the same layout."""

    name: Literal["deepcam"] = option(..., "Climate fields with masks, one HDF5 file per sample.")
    path: ExpandedPath = option(..., "The folder that holds train/, validation/ and stats.h5.")
    threads: Count = option(4, "Samples that a rank reads at once, where workers is 0.", "threads")
    layout: Literal["channels_last", "channels_first"] = option(
        "channels_last",
        "How inputs lie in memory: channels_last as in the files, which is fast to read and for convolutions "
        "on tensor cores; or channels_first.",
    )
    precision: Precision = option(
        "fp32",
        "Of inputs. bf16 or fp16 halves what goes to the GPU, and training.precision, which must then be the "
        "same, gives the same bits.",
    )
    direct: bool = option(
        False,
        "Read past the page cache (O_DIRECT), for data sets that are larger than a node's memory, where the "
        "file system has it. Copies on the nodes' own disks (placement: local) go through the cache.",
    )

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
        shift, scale = _read_stats(root, channels)
        if self.direct:
            _check_direct(manifests)
        scaling = ChannelScaling(
            shift, scale, height * width, self.precision, self.layout == "channels_first"
        )
        train, validation = (
            Fields(manifest, None, N_CLASSES, self.threads, scaling, self.direct) for manifest in manifests
        )
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

    def prepare(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return views: the fields are scaled while they are read."""
        assert self._scaling is not None
        return self._scaling.as_channels_first(inputs), targets


def _check_direct(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        if not can_read_directly(manifest.path(0)):
            raise DataError(
                f"{manifest.path(0)}: cannot be read past the page cache, since its file system lacks "
                "O_DIRECT; set data.direct to false"
            )


def _check_shapes(manifest: Manifest) -> None:
    inputs, masks = manifest.shapes
    if len(inputs) != 3 or masks != inputs[:2]:
        raise DataError(
            f"{manifest.path(0)}: {HDF5_DATASETS[0]} is of shape {inputs} and {HDF5_DATASETS[1]} of {masks}, "
            "but (H, W, channels) and (H, W) are read"
        )


def _read_stats(root: Path, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what each channel is shifted by, and scaled by after that, two of (C,) float32.

    They are computed in the precision of the file, as the reference does. A channel that is constant is not
    scaled.
    """
    import h5py

    path = stats_path(root)
    if not path.exists():
        raise DataError(f"{path}: missing; make it: kakurenbo data stats {root}")
    try:
        with h5py.File(path, "r") as file:
            low, high = (file[f"climate/{name}"][...] for name in ("minval", "maxval"))
            if not low.dtype.kind == high.dtype.kind == "f":
                low, high = low.astype(np.float64), high.astype(np.float64)
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
    span = high - low
    scale = 1 / np.where(span > 0, span, span.dtype.type(1))
    return low.astype(np.float32), scale.astype(np.float32)
