"""Checks of what a training loop gives to `Hiding`: sizes, method, loader, ids, losses."""

from __future__ import annotations

from collections.abc import Sized
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from ..config.options import pick
from ..core.plan import Epoch
from ..errors import JobError, LoopError, shown
from ..selection import METHODS
from ..selection.batch_level import BatchMethod
from ..selection.method import Method
from ..selection.online_subset import OnlineSubset
from .samplers import Pass


def n_samples(data: Sized | int) -> int:
    """Return the length of a map-style data set, or the length itself.

    Raises:
        LoopError: it is neither.
    """
    if isinstance(data, int | Integral):
        return int(data)
    countable = hasattr(data, "__len__") and hasattr(data, "__getitem__")  # a DataLoader counts batches
    if not countable or isinstance(data, IterableDataset):
        raise LoopError(
            f"hiding: data is of type {type(data).__name__}; give the map-style data set that the loader "
            "reads, or its length"
        )
    return len(data)


def check_sizes(warmup_epochs: object, **sizes: object) -> None:
    """Check that all of these are whole numbers of at least 1, and the epochs of warm-up a number.

    Raises:
        LoopError: one is not.
    """
    if not isinstance(warmup_epochs, Real) or not float(warmup_epochs) >= 0:
        raise LoopError(
            f"hiding: warmup_epochs is {shown(warmup_epochs)}, but must be a number of at least 0; give that "
            "of the learning-rate schedule"
        )
    for name, size in sizes.items():
        if not isinstance(size, Integral) or int(size) < 1:
            raise LoopError(
                f"hiding: {name} is {shown(size)}, but must be a whole number of at least 1; give that of "
                "the training loop"
            )


def resolve_method(method: str | Method, options: dict[str, Any], epochs: int) -> Method:
    """Return the method, looked up if it is a name, if any training loop can use it.

    Raises:
        JobError: there is no such method or option, or only the driver can use it.
    """
    if isinstance(method, str):
        method = pick({"hide": {"method": method, **options}}, "hiding", "hide", "method", METHODS)
    elif not isinstance(method, Method):
        raise JobError(f"hiding: method is {shown(method)}; give the name of a method, or a method")
    elif options:
        raise JobError(
            f"hiding: {', '.join(options)} given beside a method that has its options already; set them there"
        )
    if any(method.selection_level(Epoch(number, epochs, 0)) == "step" for number in range(epochs)):
        raise JobError(
            f"hiding: {method.method} chooses step by step, which needs the driver's training loop; use "
            "kakurenbo train"
        )
    if isinstance(method, OnlineSubset):
        raise JobError(
            f"hiding: {method.method} chooses by what goes into the network's last layer, which only "
            "kakurenbo train reads; score with kakurenbo score, and use static"
        )
    if isinstance(method, BatchMethod):
        selection = method.selection_pass(1)
        if selection.reuse_graph or selection.pipeline or selection.precision != "same":
            raise JobError(
                f"hiding: {method.method} keeps the graph of its selection pass, or makes it ahead or in "
                "another precision, but in your own loop that pass is yours; remove the option"
            )
    if "grad_norm" in method.columns:
        raise JobError(
            f"hiding: {method.method} needs the gradient norm of the last layer, which only kakurenbo train "
            "computes; use el2n"
        )
    return method


def check_ids(ids: np.ndarray | torch.Tensor, current: Pass, n: int) -> None:
    """Check that ids are those of the next batch of the pass.

    Args:
        ids: as ``observe`` got them.
        current: the pass.
        n: samples of the data set.

    Raises:
        LoopError: they are not.
    """
    expected = current.ids
    if ids is expected:
        return
    ids = ids.cpu().numpy() if isinstance(ids, torch.Tensor) else np.asarray(ids)
    if np.array_equal(ids, expected):
        return
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise LoopError(
            f"hiding: observe got ids of shape {ids.shape} and type {ids.dtype} for {current}; give one "
            "integer a sample"
        )
    out_of_range = ids[(ids < 0) | (ids >= n)]
    if len(out_of_range):
        raise LoopError(
            f"hiding: observe got id {out_of_range[0]} for {current}, but ids go from 0 to {n - 1}; give the "
            "data set's own"
        )
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any() and len(np.unique(expected)) == len(expected):
        raise LoopError(
            f"hiding: observe got id {values[counts > 1][0]} twice for {current}; give each sample of the "
            "batch once"
        )
    for later in range(current.n_observed + 1, len(current)):
        if np.array_equal(ids, current.ids_of(later)):
            raise LoopError(
                f"hiding: observe was not called for {current}, but for batch {later}; call it for every "
                "batch, in order"
            )
    raise LoopError(
        f"hiding: observe got {len(ids)} ids that are not those of {current}; the loader must read by "
        "hiding.batch_sampler, or by hiding.sampler with the same batch_size, in order"
    )


def check_losses(losses: torch.Tensor, current: Pass) -> None:
    """Check that there is one loss, or one array of them, for each sample of the pass's next batch.

    Raises:
        LoopError: there is not.
    """
    k = len(current.ids)
    if losses.dim() == 0:
        raise LoopError(
            f"hiding: observe got one loss for a batch of {k}, an average already; give each sample's own: "
            "reduction='none'"
        )
    if len(losses) != k:
        raise LoopError(
            f"hiding: observe got {len(losses)} losses, but {current} has {k} samples; give one loss a "
            "sample (of tokens, losses.view(k, -1)), and the loader the batch_size that hiding has"
        )


def check_given(current: Pass) -> None:
    """Check that a loader got the next batch from hiding's samplers in this pass.

    Raises:
        LoopError: it did not, so it reads other samples.
    """
    if current.n_given <= current.n_observed:
        raise LoopError(
            f"hiding: the loader did not read {current} by hiding's samplers in this pass: it shuffles by "
            "itself, or read ahead; give the DataLoader batch_sampler=hiding.batch_sampler, or take "
            "hiding.rebuild_loader(loader), and begin to read after the pass begins"
        )


def check_division(gradient: float, accumulate: int, loop_divides: bool) -> None:
    """Check who divides the loss by ``accumulate``, by the gradient that reaches it.

    A gradient scaler multiplies it, and then nothing is known.

    Raises:
        LoopError: both do, or nobody does.
    """
    if abs(gradient * accumulate - 1) < 1e-3 and not loop_divides:
        raise LoopError(
            f"hiding: the loop divides the loss by {accumulate}, and so does observe for accumulate="
            f"{accumulate}; leave the loop's division out, or make Hiding(..., loop_divides=True)"
        )
    if abs(gradient - 1) < 1e-3 and loop_divides:
        raise LoopError(
            f"hiding: the loop does not divide the loss by {accumulate}, and nor does observe for "
            "loop_divides=True; divide it, or leave loop_divides out"
        )
