"""What a job may make of any data set: classes dropped, a long tail, wrong labels, samples that are there several times.

Everything is drawn by ``data.seed``, not by the run's. In this order: classes are dropped and the rest renumbered; the tail
is thinned; labels are flipped; samples are repeated, by their true class and with the label that they then have. Validation
data only loses the dropped classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..config.job import DataOptions
from ..core.rng import bits, key, uniform
from ..errors import DataError
from .dataset import Dataset, DatasetSplits, ReadRequest, SampleFiles

if TYPE_CHECKING:
    import torch

VARIATIONS = ("drop_classes", "imbalance", "label_noise", "repeats", "repeats_classes")


def varied(data: DatasetSplits, options: DataOptions) -> DatasetSplits:
    """Return the data set as its options vary it; its fingerprint says how.

    Raises DataError if they need the class of each sample and the data set does not tell it, or has no such classes.
    """
    changes = options.model_dump(include=set(VARIATIONS), exclude_defaults=True)
    if not changes:
        return data
    fingerprint = "+".join(
        [data.fingerprint, *(f"{name}={changes[name]}" for name in changes), f"seed={options.seed}"]
    )
    if changes.keys() == {"repeats"}:
        n, label = len(data.train), data.train.labels()
        return replace(
            data,
            train=_repeated(data.train, np.arange(n), label, np.full(n, options.repeats)),
            fingerprint=fingerprint,
        )
    if data.train.labels() is None or data.validation.labels() is None:
        name = min(changes.keys() - {"repeats"})
        raise DataError(
            f"data.{name} is {changes[name]}, but {options.name} does not tell the class of each sample; remove it"
        )

    left = _classes_left(data, options)
    row, label = _without_dropped(data.train, left)
    kept = _long_tailed(row, label, len(left), options)
    row, label = row[kept], label[kept]
    repeated = label >= len(left) - round(options.repeats_classes * len(left))
    validation = _without_dropped(data.validation, left)
    return replace(
        data,
        train=_repeated(
            data.train, row, _flipped(row, label, len(left), options), np.where(repeated, options.repeats, 1)
        ),
        validation=_repeated(data.validation, *validation, np.ones_like(validation[0])),
        n_classes=len(left),
        fingerprint=fingerprint,
    )


class Varied(Dataset):
    """Rows of a source, under ids and labels of their own.

    row: (n,) int64, which sample an id is. again: (n,) int64, 0 for its first appearance, 1 for the second, ...
    label: (n,) int64, or None for the targets that the source gives.
    """

    def __init__(self, source: Dataset, row: np.ndarray, again: np.ndarray, label: np.ndarray | None):
        self._source, self._row, self._again, self._label = source, row, again, label
        self._most = int(again.max(initial=0)) + 1

    def __len__(self) -> int:
        return len(self._row)

    def labels(self) -> np.ndarray | None:
        return self._label

    def files(self) -> SampleFiles | None:
        files = self._source.files()
        if files is None or self._again.any():  # a file that several samples share belongs to none of them
            return None
        return SampleFiles(
            files.root,
            [files.names[row] for row in self._row],
            files.sizes[self._row],
            files.changed[self._row],
        )

    def relocate(self, root: Path) -> Varied:
        return Varied(self._source.relocate(root), self._row, self._again, self._label)

    def __getitems__(self, request: ReadRequest):
        return self._labelled(request, self._source.__getitems__(self._of_source(request)))

    @property
    def reads_ahead(self) -> bool:
        return self._source.reads_ahead

    def stream(self, requests: Sequence[ReadRequest], device: torch.device):
        return map(
            self._labelled,
            requests,
            self._source.stream([self._of_source(request) for request in requests], device),
        )

    def _of_source(self, request: ReadRequest) -> ReadRequest:
        return replace(
            request, id=self._row[request.id], copy=request.copy * self._most + self._again[request.id]
        )

    def _labelled(
        self, request: ReadRequest, read: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        input, target = read
        return input, target if self._label is None else torch.from_numpy(self._label[request.id])


def _classes_left(data: DatasetSplits, options: DataOptions) -> np.ndarray:
    beyond = [number for number in options.drop_classes if number >= data.n_classes]
    if beyond:
        raise DataError(
            f"data.drop_classes names class {beyond[0]}, but {options.name} has classes 0 to {data.n_classes - 1}; remove it"
        )
    left = np.setdiff1d(np.arange(data.n_classes), options.drop_classes)
    if len(left) < 2:
        raise DataError(
            f"data.drop_classes leaves {len(left)} of the {data.n_classes} classes of {options.name}; leave at least 2"
        )
    return left


def _without_dropped(source: Dataset, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that stay, and their labels, renumbered: two of (n,) int64."""
    label = source.labels()
    row = np.flatnonzero(np.isin(label, left))
    return row, np.searchsorted(left, label[row])


def _long_tailed(row: np.ndarray, label: np.ndarray, n_classes: int, options: DataOptions) -> np.ndarray:
    """Return which rows stay, sorted: of class c, imbalance^(c / (n_classes - 1)) of its samples, rounded, but at least one.

    Source: Cao et al. 2019, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", 4.1.
    """
    draw = uniform(key(options.seed, "imbalance"), row)
    kept = []
    for number in range(n_classes):
        mine = np.flatnonzero(label == number)
        n = max(round(len(mine) * options.imbalance ** (number / (n_classes - 1))), 1)
        kept.append(mine[np.argsort(draw[mine], kind="stable")[:n]])
    return np.sort(np.concatenate(kept))


def _flipped(row: np.ndarray, label: np.ndarray, n_classes: int, options: DataOptions) -> np.ndarray:
    """Return the labels, a share label_noise of them (rounded to whole samples) turned into any other class, each as likely."""
    n = round(options.label_noise * len(row))
    struck = np.argsort(uniform(key(options.seed, "label noise"), row), kind="stable")[:n]
    further = 1 + bits(key(options.seed, "label noise, class"), row[struck]) % np.uint64(n_classes - 1)
    noisy = label.copy()
    noisy[struck] = (label[struck] + further.astype(np.int64)) % n_classes
    return noisy


def _repeated(source: Dataset, row: np.ndarray, label: np.ndarray | None, times: np.ndarray) -> Varied:
    """Return these rows, each so many times: first all of them in order, then those that come again, and so on."""
    place = np.concatenate([np.flatnonzero(times > again) for again in range(times.max())])
    again = np.repeat(
        np.arange(times.max()), [np.count_nonzero(times > again) for again in range(times.max())]
    )
    return Varied(source, row[place], again, None if label is None else label[place])
