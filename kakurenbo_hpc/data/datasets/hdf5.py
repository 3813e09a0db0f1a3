"""Packed HDF5 files: one dataset of inputs and one of labels per file, one row per sample."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...config.data_options import DataOptions
from ...config.options import Count, ExpandedPath, option
from ...errors import DataError
from ..dataset import DatasetSplits
from ..hdf5.layout import explain
from ..hdf5.manifest import Manifest, find, fingerprint
from ..hdf5.samples import Hdf5Samples

if TYPE_CHECKING:
    import torch


class Hdf5(DataOptions):
    """Rows of HDF5 files, read in the order of the files' names."""

    name: Literal["hdf5"] = option(..., "Packed HDF5 files, one row per sample.")
    path: ExpandedPath = option(
        ..., "A folder with train/*.h5 and validation/*.h5, read in the order of their names."
    )
    inputs: str = option(
        "inputs",
        "The dataset of inputs, (n, C, H, W) or of any shape that the model takes. "
        "Bytes 0 to 255 become 0 to 1; other numbers stay what they are.",
    )
    labels: str = option("labels", "The dataset of classes (n,), or of masks (n, H, W).")
    n_classes: Count | None = option(
        None, "Number of classes; 1 + the largest training label if not given. Masks need it.", "classes"
    )
    threads: Count = option(4, "Samples that a rank reads at once, where workers is 0.", "threads")

    def open(self, directory: Path | None = None) -> DatasetSplits:
        """Look up the files and read their labels.

        Raises:
            DataError: files are missing or damaged, or their shapes and labels do not fit together.
        """
        root = Path(self.path)
        datasets = (self.inputs, self.labels)
        manifests = [find(root, split, datasets, False, directory) for split in ("train", "validation")]
        for manifest in manifests:
            if problem := _not_masks(manifest.shapes[1]):
                raise DataError(f"{manifest.path(0)}: {self.labels} {problem}")
        if manifests[0].shapes != manifests[1].shapes:
            raise DataError(
                f"{manifests[1].path(0)}: inputs and labels of a sample are of shape {manifests[1].shapes}, "
                f"but of {manifests[0].shapes} in {manifests[0].names[0]}"
            )
        inputs, masks = manifests[0].shapes
        if masks and self.n_classes is None:
            raise DataError(
                f"data.n_classes is missing, but {manifests[0].path(0)} holds masks; give the number of "
                "classes"
            )
        labels = [None if masks else _read_labels(manifest, self.labels) for manifest in manifests]
        n_classes = self.n_classes or 1 + max(int(known.max()) for known in labels[:1] if known is not None)
        for manifest, known in zip(manifests, labels, strict=True):
            if known is not None and not (0 <= known.min() and known.max() < n_classes):
                raise DataError(
                    f"{manifest.path(0)} and others: {self.labels} go from {known.min()} to {known.max()}, "
                    f"but classes are 0 to {n_classes - 1}"
                )
        train, validation = (
            Rows(manifest, known, n_classes, self.threads)
            for manifest, known in zip(manifests, labels, strict=True)
        )
        return DatasetSplits(train, validation, n_classes, inputs, fingerprint(manifests), target_shape=masks)


class Rows(Hdf5Samples):
    """Samples whose inputs are bytes from 0 to 255 or numbers of any size."""

    def prepare(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale bytes to 0 to 1."""
        import torch

        scaled = inputs.float().div_(255) if inputs.dtype == torch.uint8 else inputs.float()
        return scaled, targets.long()


def _not_masks(shape: tuple[int, ...]) -> str:
    """Say what is wrong with labels whose rows are of this shape; nothing if they are classes or masks."""
    if len(shape) == 1 and shape[0] == 1:
        return "are of shape (n, 1), but classes of (n,); write labels[:, 0]"
    if len(shape) == 1:
        return f"are of shape (n, {shape[0]}), one-hot perhaps, but classes of (n,); write labels.argmax(1)"
    if len(shape) == 3 and 1 in (shape[0], shape[-1]):
        return f"are of shape {('n', *shape)}, but masks of (n, H, W); write them without the 1".replace(
            "'", ""
        )
    return ""


def _read_labels(manifest: Manifest, name: str) -> np.ndarray:
    """Return the labels of all samples, (N,) int64.

    Raises:
        DataError: a file, which it names, cannot be read, or holds labels that are not whole numbers.
    """
    import h5py

    columns = []
    for file in range(len(manifest.names)):
        path = manifest.path(file)
        try:
            with h5py.File(path, "r") as h5:
                labels = h5[name][:]
        except OSError as problem:
            reason, advice = explain(problem)
            raise DataError(f"{path}: {name} cannot be read ({reason}); {advice}") from None
        if labels.dtype.kind == "f":
            wrong = labels[~np.isfinite(labels) | (labels != np.rint(labels))]
            if wrong.size:
                raise DataError(
                    f"{path}: {name} holds {wrong[0]}, but classes are whole numbers; mend the file"
                )
        columns.append(labels)
    return np.concatenate(columns).astype(np.int64)
