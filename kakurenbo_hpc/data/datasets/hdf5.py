"""Packed HDF5 files: datasets of inputs and of labels, one row a sample, in as many files as one likes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...config.job import DataOptions
from ...config.options import Count
from ...errors import DataError
from ..dataset import DatasetSplits
from ..hdf5.manifest import Manifest, find, fingerprint
from ..hdf5.samples import Hdf5Samples

if TYPE_CHECKING:
    import torch


class Hdf5(DataOptions):
    """path: a folder with train/*.h5 and validation/*.h5, read in the order of their names.

    inputs: the dataset (n, C, H, W), or of any shape that the network takes; bytes 0 to 255 become 0 to 1, other numbers stay
    what they are. labels: the dataset (n,) of classes, or of masks (n, H, W). n_classes: 1 + the largest training label if
    not given. threads: samples that are read at once.
    """

    name: Literal["hdf5"]
    path: str
    inputs: str = "inputs"
    labels: str = "labels"
    n_classes: Count | None = None
    threads: Count = 4

    def open(self, directory: Path | None = None) -> DatasetSplits:
        root = Path(self.path)
        parts = [
            find(root, part, (self.inputs, self.labels), False, directory) for part in ("train", "validation")
        ]
        if parts[0].shapes != parts[1].shapes:
            raise DataError(
                f"{parts[1].path(0)}: samples are of shape {parts[1].shapes[0]}, but of {parts[0].shapes[0]} in {parts[0].names[0]}"
            )
        inputs, masks = parts[0].shapes
        if masks and self.n_classes is None:
            raise DataError(
                f"data.n_classes is not given, but {parts[0].path(0)} holds masks; say how many classes there are"
            )
        labels = [None if masks else _labels(manifest, self.labels) for manifest in parts]
        n_classes = self.n_classes or int(labels[0].max()) + 1
        for manifest, known in zip(parts, labels):
            if known is not None and not (0 <= known.min() and known.max() < n_classes):
                found = f"{self.labels} go from {known.min()} to {known.max()}"
                raise DataError(
                    f"{manifest.path(0)} and others: {found}, but classes are 0 to {n_classes - 1}"
                )
        train, validation = (
            Rows(manifest, known, n_classes, self.threads) for manifest, known in zip(parts, labels)
        )
        return DatasetSplits(train, validation, n_classes, inputs, fingerprint(parts), target_shape=masks)


class Rows(Hdf5Samples):
    """Rows as they are."""

    def prepare(self, input: torch.Tensor, target: torch.Tensor):
        import torch

        return input.float().div_(255) if input.dtype == torch.uint8 else input.float(), target.long()


def _labels(manifest: Manifest, name: str) -> np.ndarray:
    """Return the labels of all samples, (N,) int64.

    Raises DataError, which names the file, if they cannot be read or are no whole numbers.
    """
    import h5py

    found = []
    for file in range(len(manifest.names)):
        path = manifest.path(file)
        try:
            with h5py.File(path, "r") as opened:
                labels = opened[name][:]
        except OSError as problem:
            raise DataError(
                f"{path}: {name} cannot be read ({' '.join(str(problem).split())}); copy it again"
            ) from None
        if (
            labels.dtype.kind == "f"
            and (wrong := labels[~np.isfinite(labels) | (labels != np.rint(labels))]).size
        ):
            raise DataError(f"{path}: {name} holds {wrong[0]}, but classes are whole numbers; mend the file")
        found.append(labels)
    return np.concatenate(found).astype(np.int64)
