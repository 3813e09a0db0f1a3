"""Variations of a data set: dropped classes, class imbalance, label noise, repeats, a part held out.

All draws use ``data.seed``, not the run's. The order is: classes are dropped and the rest renumbered; classes
are thinned to a long tail; labels are flipped; samples are repeated, chosen by their true class, with the
label that they then have; a part is held out, all repeats of a sample together. Validation data only loses
the dropped classes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..config.data_options import DataOptions
from ..core.rng import bits, key, uniform
from ..errors import DataError
from .dataset import Dataset, DatasetSplits, DatasetView, ReadRequest, SampleFiles

if TYPE_CHECKING:
    import torch

VARIATIONS = ("drop_classes", "imbalance", "label_noise", "repeats", "repeats_classes")


def vary(data: DatasetSplits, options: DataOptions) -> DatasetSplits:
    """Return the data set with the variations of its options, which its fingerprint names.

    Raises:
        DataError: a variation needs the class of each sample, and the data set has none, or lacks a class
            named; or nothing is left of one part.
    """
    varied = _change(data, options)
    return _hold_out(varied, options) if options.holdout else varied


def _hold_out(data: DatasetSplits, options: DataOptions) -> DatasetSplits:
    """Cut off the training samples whose draw is below the share; no number of ranks changes who that is."""
    row = data.train.row if isinstance(data.train, Varied) else np.arange(len(data.train))
    is_held = uniform(key(options.seed, "holdout"), row) < options.holdout
    if is_held.all() or not is_held.any():
        raise DataError(
            f"data.holdout is {options.holdout:g}, which holds out {np.count_nonzero(is_held)} of "
            f"{len(row)} samples; leave some on both sides"
        )
    parts = (
        _repeat(data.train, ids, _labels_at(data.train, ids), np.ones_like(ids))
        for ids in (np.flatnonzero(~is_held), np.flatnonzero(is_held))
    )
    train, held_out = parts
    fingerprint = f"{data.fingerprint}+holdout={options.holdout}+seed={options.seed}"
    return replace(data, train=train, held_out=held_out, fingerprint=fingerprint)


def _labels_at(dataset: Dataset, ids: np.ndarray) -> np.ndarray | None:
    label = dataset.labels()
    return None if label is None else label[ids]


def _change(data: DatasetSplits, options: DataOptions) -> DatasetSplits:
    """Return the data set with all variations but the part that is held out."""
    changes = options.model_dump(include=set(VARIATIONS), exclude_defaults=True)
    if not changes:
        return data
    n_repeats = len(options.repeats) if isinstance(options.repeats, list) else options.repeats
    # Earlier versions repeated the last classes.
    drawn = ["classes drawn"] if "repeats_classes" in changes else []
    fingerprint = "+".join(
        [data.fingerprint, *(f"{name}={changes[name]}" for name in changes), *drawn, f"seed={options.seed}"]
    )
    if changes.keys() == {"repeats"}:
        n, label = len(data.train), data.train.labels()
        return replace(
            data,
            train=_repeat(data.train, np.arange(n), label, np.full(n, n_repeats)),
            fingerprint=fingerprint,
        )
    if data.train.labels() is None or data.validation.labels() is None:
        name = min(changes.keys() - {"repeats"})
        raise DataError(
            f"data.{name} is {changes[name]}, but {options.name} has no class for each sample; remove it"
        )

    classes = _remaining_classes(data, options)
    n_classes = len(classes)
    row, label = _keep_classes(data.train, classes)
    kept = _long_tail(row, label, n_classes, options)
    row, label = row[kept], label[kept]
    repeated = np.argsort(uniform(key(options.seed, "repeats, classes"), np.arange(n_classes)), kind="stable")
    is_repeated = np.isin(label, repeated[: round(options.repeats_classes * n_classes)])
    times = np.where(is_repeated, n_repeats, 1)
    validation_row, validation_label = _keep_classes(data.validation, classes)
    return replace(
        data,
        train=_repeat(data.train, row, _flip_labels(row, label, n_classes, options), times),
        validation=_repeat(data.validation, validation_row, validation_label, np.ones_like(validation_row)),
        n_classes=n_classes,
        classes=tuple(data.classes[c] for c in classes) if data.classes else (),
        fingerprint=fingerprint,
    )


class Varied(DatasetView):
    """Some samples of a data set, perhaps several times, under other ids and labels."""

    def __init__(self, base: Dataset, row: np.ndarray, repeat: np.ndarray, label: np.ndarray | None):
        """Choose the samples.

        Args:
            base: the data set beneath.
            row: (n,) int64, the id beneath of each sample.
            repeat: (n,) int64, 0 for the first appearance of a row, 1 for the second, and so on.
            label: (n,) int64, or None for the targets of the data set beneath.
        """
        super().__init__(base)
        self._row, self._repeat, self._label = row, repeat, label
        self._n_repeats = int(repeat.max(initial=0)) + 1
        self._times = np.bincount(row, minlength=len(base))

    @property
    def row(self) -> np.ndarray:
        """The id beneath of each sample, (n,) int64."""
        return self._row

    def __len__(self) -> int:
        return len(self._row)

    def copy_numbers(self, ids: np.ndarray) -> np.ndarray:
        """Return which copy of a repeated sample each is, from 0; -1 for samples that are not repeated."""
        is_repeated = self._times[self._row[ids]] > 1
        return np.where(is_repeated, self._repeat[ids], -1)

    def labels(self) -> np.ndarray | None:
        """Return the class of every sample, which is perhaps a wrong one."""
        return self._label

    def files(self) -> SampleFiles | None:
        """Return the file of every sample; None if samples share files."""
        files = self._base.files()
        if files is None or self._repeat.any():
            return None
        return files.subset(self._row)

    def to_base(self, request: ReadRequest) -> ReadRequest:
        """Return the request beneath, in which repeats of a sample are further copies."""
        copy = request.copy * self._n_repeats + self._repeat[request.id]
        return replace(request, id=self._row[request.id], copy=copy)

    def convert(
        self, request: ReadRequest, batch: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Replace the targets if there are labels."""
        import torch

        inputs, targets = batch
        return inputs, targets if self._label is None else torch.from_numpy(self._label[request.id])


def _remaining_classes(data: DatasetSplits, options: DataOptions) -> np.ndarray:
    beyond = [number for number in options.drop_classes if number >= data.n_classes]
    if beyond:
        raise DataError(
            f"data.drop_classes names class {beyond[0]}, but {options.name} has classes 0 to "
            f"{data.n_classes - 1}; "
            "remove it"
        )
    classes = np.setdiff1d(np.arange(data.n_classes), options.drop_classes)
    if len(classes) < 2:
        raise DataError(
            f"data.drop_classes leaves {len(classes)} of the {data.n_classes} classes of {options.name}; "
            "leave at least 2"
        )
    return classes


def _keep_classes(dataset: Dataset, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of these classes and their labels, renumbered from 0: two of (n,) int64."""
    label = dataset.labels()
    assert label is not None
    row = np.flatnonzero(np.isin(label, classes))
    return row, np.searchsorted(classes, label[row])


def _long_tail(row: np.ndarray, label: np.ndarray, n_classes: int, options: DataOptions) -> np.ndarray:
    """Return which rows stay, sorted.

    Of class c stay imbalance^(c / (n_classes - 1)) of its samples, rounded, but at least one.

    Source: Cao et al. 2019, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", 4.1.
    """
    draw = uniform(key(options.seed, "imbalance"), row)
    kept = []
    for number in range(n_classes):
        members = np.flatnonzero(label == number)
        n = max(round(len(members) * options.imbalance ** (number / (n_classes - 1))), 1)
        kept.append(members[np.argsort(draw[members], kind="stable")[:n]])
    return np.sort(np.concatenate(kept))


def _flip_labels(row: np.ndarray, label: np.ndarray, n_classes: int, options: DataOptions) -> np.ndarray:
    """Return the labels with a fraction label_noise of them, in whole samples, changed to any other class."""
    n = round(options.label_noise * len(row))
    flipped = np.argsort(uniform(key(options.seed, "label noise"), row), kind="stable")[:n]
    step = 1 + bits(key(options.seed, "label noise, class"), row[flipped]) % np.uint64(n_classes - 1)
    noisy = label.copy()
    noisy[flipped] = (label[flipped] + step.astype(np.int64)) % n_classes
    return noisy


def _repeat(dataset: Dataset, row: np.ndarray, label: np.ndarray | None, times: np.ndarray) -> Varied:
    """Return each row so many times: first all in order, then those that come a second time, and so on."""
    places = [np.flatnonzero(times > repeat) for repeat in range(times.max())]
    place = np.concatenate(places)
    repeat = np.repeat(np.arange(len(places)), [len(rows) for rows in places])
    return Varied(dataset, row[place], repeat, None if label is None else label[place])
