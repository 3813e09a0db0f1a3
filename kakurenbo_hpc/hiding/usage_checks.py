"""What a loop can do wrong with what it gives to hiding, and with a batch, each told in one line."""

from __future__ import annotations

from collections.abc import Sized
from numbers import Integral

import numpy as np
import torch

from ..errors import LoopError, shown
from .samplers import Pass


def n_samples(data: Sized | int) -> int:
    """Return the length of a map-style data set, or what is given as its length. Raises LoopError."""
    if isinstance(data, Integral):
        return int(data)
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):  # a DataLoader counts batches
        raise LoopError(
            f"hiding: data is of type {type(data).__name__}, which has no samples by number; give the map-style data set that the "
            "loader reads, or its length"
        )
    return len(data)


def check_sizes(**sizes: int) -> None:
    """Raise LoopError unless all of these are counts, from 1."""
    for name, size in sizes.items():
        if not isinstance(size, Integral) or size < 1:
            raise LoopError(
                f"hiding: {name} is {shown(size)}, but must be a whole number of at least 1; give the loop's own"
            )


def check_ids(ids: np.ndarray | torch.Tensor, here: Pass, n: int) -> None:
    """Raise LoopError unless ids are those of the pass's next batch. n: samples of the data set."""
    expected = here.ids
    if ids is expected:
        return
    ids = ids.cpu().numpy() if isinstance(ids, torch.Tensor) else np.asarray(ids)
    if np.array_equal(ids, expected):
        return
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise LoopError(
            f"hiding: observe got ids of shape {ids.shape} and type {ids.dtype} for {here}; give one integer a sample"
        )
    wrong = ids[(ids < 0) | (ids >= n)]
    if len(wrong):
        raise LoopError(
            f"hiding: observe got id {wrong[0]} for {here}, but ids go from 0 to {n - 1}; give the data set's own"
        )
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any() and len(np.unique(expected)) == len(expected):
        raise LoopError(
            f"hiding: observe got id {values[counts > 1][0]} twice for {here}; give each sample of the batch once"
        )
    for later in range(here.n_observed + 1, len(here)):
        if np.array_equal(ids, here.ids_of(later)):
            raise LoopError(
                f"hiding: observe was not called for {here}, but for batch {later}; call it for every batch, in order"
            )
    raise LoopError(
        f"hiding: observe got {len(ids)} ids that are not those of {here}; the loader must read by hiding.batch_sampler, or by "
        "hiding.sampler with the same batch_size, in order"
    )


def by_sample(losses: torch.Tensor, here: Pass) -> torch.Tensor:
    """Return the (k,) losses of the pass's next batch. Raises LoopError if losses are not one a sample, or pixels of each."""
    k = len(here.ids)
    if losses.dim() == 0:
        raise LoopError(
            f"hiding: observe got one loss for a batch of {k}, an average already; give each sample's own: reduction='none'"
        )
    if len(losses) != k:
        raise LoopError(
            f"hiding: observe got {len(losses)} losses, but {here} has {k} samples; give one loss a sample, and the loader the "
            "batch_size that hiding has"
        )
    return losses if losses.dim() == 1 else losses.flatten(1).mean(1)
