"""The training loop's loader: checked, rebuilt around hiding's batch sampler, iterated with sample ids."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import BatchSampler as TorchBatchSampler
from torch.utils.data import DataLoader, IterableDataset

from ..errors import LoopError
from .passes import Passes
from .samplers import BatchSampler, Sampler

# What a sampler that reads in place of ours tells, by its type.
_CAUSES = {
    "RandomSampler": "shuffle=True draws an order of its own",
    "BatchSamplerShard": "accelerate deals the batches to ranks a second time: do not prepare the loader",
    "DistributedSamplerWrapper": "Lightning deals the samples to ranks a second time: give the Trainer "
    "use_distributed_sampler=False",
    "DistributedSampler": "hiding deals the samples to ranks itself",
    "SkipBatchSampler": "hiding's epochs begin at their first batch",
    "_RepeatSampler": "it reads ahead into the next pass: leave out timm's use_multi_epochs_loader",
}
_KEPT = (
    "num_workers",
    "collate_fn",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "generator",
    "prefetch_factor",
    "persistent_workers",
)


class BatchesWithIds:
    """The batches that a loader reads in the pass that has begun, each with its sample ids.

    Args:
        passes: of this rank.
        loader: reads by hiding's samplers.
        begun: whether there is a pass to go through; there are no batches otherwise.
    """

    def __init__(self, passes: Passes, loader: Iterable, begun: bool = True):
        self._passes, self._loader = passes, loader
        self._pass = passes.current if begun else None

    def __len__(self) -> int:
        return 0 if self._pass is None else len(self._pass)

    def __iter__(self) -> Iterator[tuple[np.ndarray, Any]]:
        """Yield (ids, batch), and check that each batch is observed; ids are (k,) int64."""
        if self._pass is None:
            return
        for i, batch in enumerate(self._loader):
            current = self._passes.next_batch()
            if current is not self._pass:
                raise LoopError(
                    f"hiding: the loop goes on in the {self._pass.name} pass of epoch "
                    f"{self._pass.epoch.number}, but the {current.name} pass of epoch "
                    f"{current.epoch.number} was begun; go through one after the other"
                )
            self._passes.latest_batch = batch
            yield current.ids, batch
            if current.n_observed != i + 1:
                raise LoopError(
                    f"hiding: {self._passes.call} was not called for batch {i} of epoch "
                    f"{current.epoch.number}; call it for every batch"
                )


def check_loader(loader: object, batch_sampler: BatchSampler, sampler: Sampler, n: int) -> None:
    """Check that a loader reads by one of hiding's samplers, as far as its attributes show it.

    What is neither a DataLoader nor wraps one, as tqdm and timm's PrefetchLoader do, passes: ``observe``
    looks at what it took from the samplers.

    Args:
        loader: as ``visible`` got it.
        batch_sampler: of this Hiding.
        sampler: of this Hiding.
        n: samples of the data set.

    Raises:
        LoopError: it does not.
    """
    found = _find_dataloader(loader)
    if found is None:
        return
    _check_data(found.dataset, n)
    _check_samplers(found, batch_sampler, sampler)
    if not getattr(found, "in_order", True) and found.num_workers > 1:
        raise LoopError(
            "hiding: the loader returns batches as they arrive, so that ids would be those of others; give "
            "the DataLoader in_order=True"
        )


def rebuild_loader(loader: Any, batch_sampler: BatchSampler) -> Any:
    """Return a loader like this one that reads by ``batch_sampler``: same data set, collate and workers.

    Args:
        loader: a DataLoader, or what wraps one in its attribute ``loader``, as timm's PrefetchLoader does.
        batch_sampler: of this Hiding.

    Raises:
        LoopError: it is neither.
    """
    if isinstance(loader, DataLoader):
        kept = {name: getattr(loader, name) for name in _KEPT}
        return DataLoader(loader.dataset, batch_sampler=batch_sampler, **kept)
    if not hasattr(loader, "loader"):
        raise LoopError(
            f"hiding: {type(loader).__name__} is no DataLoader; make one with "
            "batch_sampler=hiding.batch_sampler"
        )
    rebuilt = copy.copy(loader)
    rebuilt.loader = rebuild_loader(loader.loader, batch_sampler)
    return rebuilt


def _find_dataloader(loader: Any) -> DataLoader | None:
    """Return the DataLoader inside a progress bar or a prefetcher, or this one; None if there is none."""
    while not isinstance(loader, DataLoader):
        name = next((name for name in ("iterable", "loader") if hasattr(loader, name)), None)
        if name is None:
            return None
        loader = getattr(loader, name)
    return loader


def _check_data(data: Any, n: int) -> None:
    if isinstance(data, IterableDataset):
        raise LoopError(
            f"hiding: the loader reads {type(data).__name__}, an IterableDataset, which takes no ids; give "
            "it a map-style data set"
        )
    if hasattr(data, "__len__") and len(data) != n:
        raise LoopError(
            f"hiding: the loader's data set has {len(data)} samples, but hiding's has {n}; give both the same"
        )


def _check_samplers(loader: DataLoader, batch_sampler: BatchSampler, sampler: Sampler) -> None:
    makes_batches = type(loader.batch_sampler) is TorchBatchSampler
    if batch_sampler in (loader.batch_sampler, loader.sampler if loader.batch_sampler is None else None):
        return
    if loader.sampler is not sampler or not makes_batches:
        name = type(loader.sampler if makes_batches else loader.batch_sampler or loader.sampler).__name__
        cause = f" ({_CAUSES[name]})" if name in _CAUSES else ""
        raise LoopError(
            f"hiding: the loader reads by {name}{cause}; give the DataLoader "
            "batch_sampler=hiding.batch_sampler, or take hiding.rebuild_loader(loader)"
        )
    if loader.batch_size != sampler.batch_size:
        raise LoopError(
            f"hiding: the loader's batch_size is {loader.batch_size}, but hiding's is {sampler.batch_size}; "
            "give both the same"
        )
