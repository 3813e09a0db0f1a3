"""Laws of data sets: the same sample whoever reads it, in whatever batch, order or process."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from ..config.data_options import DataOptions
from ..config.options import checked
from ..data import open_data
from ..data.dataset import Dataset, DatasetSplits, DatasetView, ReadRequest
from ..distributed.comm import SerialComm
from .law import equal, require

_EPOCH, _SEED, _MOST = 2, 5, 24
_IGNORED = -100  # in masks

Read = tuple[np.ndarray, np.ndarray]


def check_dataset(
    dataset: type[DataOptions], *, changed: Mapping[str, Any] | None = None, **options: Any
) -> None:
    """Check that a data set keeps the laws that all data sets keep.

    Args:
        dataset: the class of its options.
        changed: options under which ids mean other samples: another path, another size. Without them the law
            of the fingerprint is checked only for being the same twice.
        options: as a job would give them.

    Raises:
        LawBroken: a law does not hold.
        JobError: the options are none of this data set.
        DataError: it cannot be opened.
    """
    splits = _open(dataset, options)
    _check_fingerprint(dataset, splits, options, changed)
    for name, part in (("train", splits.train), ("validation", splits.validation)):
        if splits.own_sizes and name == "validation":  # samples differ in size, and are read one by one
            part = _First(part)
        _check_samples(name, part, splits)
        _check_labels(name, part, splits)
        _check_batches(name, part)
        _check_processes(name, part)


class _First(DatasetView):
    """The first sample of a data set."""

    def __len__(self) -> int:
        return 1


def _open(dataset: type[DataOptions], options: Mapping[str, Any]) -> DatasetSplits:
    allowed = get_args(dataset.model_fields["name"].annotation)  # Literal["digits"] of the class itself
    values = {"name": allowed[0] if allowed else dataset.__name__, **options}
    return open_data(checked(dataset, values, dataset.__name__), _SEED, SerialComm())


def _check_fingerprint(
    dataset: type[DataOptions],
    splits: DatasetSplits,
    options: Mapping[str, Any],
    changed: Mapping[str, Any] | None,
) -> None:
    law = "the fingerprint is the same for the same samples, and another for others"
    again = _open(dataset, options).fingerprint
    require(
        splits.fingerprint == again,
        law,
        f"{splits.fingerprint!r}, then {again!r}; no times, no addresses in it",
    )
    if changed is not None:
        other = _open(dataset, {**options, **changed}).fingerprint
        require(
            splits.fingerprint != other,
            law,
            f"{changed} gives the same {other!r}; let it depend on the content",
        )


def _check_samples(name: str, part: Dataset, splits: DatasetSplits) -> None:
    law = f"samples of {name} are float32 inputs and int64 targets of one shape"
    own_size = isinstance(part, _First)
    require(len(part) > 0, law, "there are none")
    inputs, targets = _read(part, _some(part))
    n = len(_some(part))
    require(inputs.dtype == np.float32, law, f"inputs are {inputs.dtype}")
    require(
        inputs.shape[:2] == (n, splits.shape[0]) if own_size else inputs.shape == (n, *splits.shape),
        law,
        f"inputs have shape {inputs.shape}, but shape is {splits.shape}",
    )
    require(targets.dtype == np.int64, law, f"targets are {targets.dtype}")
    wanted = (n, *splits.target_shape)
    require(
        targets.ndim == 3 if own_size else targets.shape == wanted,
        law,
        f"targets have shape {targets.shape}, but target_shape is {splits.target_shape}",
    )
    valid = (0 <= targets) & (targets < splits.n_classes)
    if splits.target_shape:
        valid |= targets == _IGNORED
    require(
        np.all(valid),
        law,
        f"targets are {targets.min()} to {targets.max()}, but n_classes is {splits.n_classes}",
    )


def _check_labels(name: str, part: Dataset, splits: DatasetSplits) -> None:
    law = f"labels() of {name} are the targets"
    labels = part.labels()
    if labels is None:
        require(
            bool(splits.target_shape),
            law,
            "None, though targets are classes; return them without reading samples",
        )
        return
    require(
        labels.shape == (len(part),) and labels.dtype == np.int64,
        law,
        f"they are {labels.dtype} {labels.shape}",
    )
    ids = _some(part)
    targets = _read(part, ids)[1]
    require(equal(labels[ids], targets), law, f"they say {labels[ids]}, samples say {targets}")


def _check_batches(name: str, part: Dataset) -> None:
    law = f"a sample of {name} is the same in any batch and order"
    ids = _some(part)
    together = _read(part, ids)
    reverse = _read(part, ids[::-1])
    alone = [_read(part, ids[i : i + 1]) for i in range(len(ids))]
    for i in range(2):
        require(
            equal(together[i], reverse[i][::-1]),
            law,
            "in reverse order it is another; draw by id, not in order",
        )
        parts = np.concatenate([one[i] for one in alone])
        require(equal(together[i], parts), law, "alone it is another; keep no state between reads")
    copies = _read(part, np.repeat(ids[:1], 2), np.arange(2, dtype=np.int32))
    require(equal(copies[0][0], together[0][0]), law, "as a second copy in the batch it is another")


def _check_processes(name: str, part: Dataset) -> None:
    law = f"a sample of {name} is the same in any process"
    ids = _some(part)
    here = _read(part, ids)
    require(
        all(map(equal, here, _read(pickle.loads(pickle.dumps(part)), ids))), law, "after pickle it is another"
    )
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(_read, (part, ids))
    require(
        all(map(equal, here, there)), law, "in another process it is another; draw by (seed, epoch, id, copy)"
    )


def _some(part: Dataset) -> np.ndarray:
    """Return some ids, far apart, in no order."""
    n = min(len(part), _MOST)
    return np.random.default_rng(0).permutation(np.linspace(0, len(part) - 1, n).astype(np.int64))


def _read(part: Dataset, ids: np.ndarray, copy: np.ndarray | None = None) -> Read:
    copy = np.zeros(len(ids), np.int32) if copy is None else copy
    inputs, targets = part.__getitems__(ReadRequest(ids, copy, _EPOCH, True))
    return inputs.numpy(), targets.numpy()
