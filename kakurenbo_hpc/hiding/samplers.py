"""What the loader reads: the local batches of one pass, by batches or one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..core.batch import MicroBatch
from ..errors import LoopError
from ..order.deal import EpochSchedule
from ..training.batch_stats import SampleStatsBuffer


class Pass:
    """One way over some samples: its local batches in order, and how many of them were observed.

    name: whole, visible or hidden. fills: samples up to which each batch is filled, where a loader wants all of one size.
    """

    def __init__(self, name: str, epoch: int, micro_batches: EpochSchedule, stats_buffer: SampleStatsBuffer):
        self.name, self.stats_buffer = name, stats_buffer
        self.n_observed, self.fills = 0, 0
        self._epoch, self._turns = epoch, list(micro_batches)
        self._last = (-1, -1), np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._turns)

    def __str__(self) -> str:
        return f"batch {self.n_observed} of epoch {self._epoch}"

    @property
    def micro_batch(self) -> MicroBatch:
        """The next batch to be observed."""
        return self._turns[self.n_observed]

    @property
    def ids(self) -> np.ndarray:
        """Its samples, those that fill it up included: (k,) int64, the same array until it is observed."""
        asked = (self.n_observed, self.fills)
        if self._last[0] != asked:
            self._last = asked, self.ids_of(self.n_observed)
        return self._last[1]

    def ids_of(self, batch: int) -> np.ndarray:
        """Return what the loader reads in one batch; what fills it up is its first sample, and does not count."""
        ids = self._turns[batch].id
        return np.concatenate([ids, np.full(max(0, self.fills - len(ids)), ids[0])])


class BatchSampler:
    """Local batches of the pass that was begun last, as lists of ids, for ``DataLoader(batch_sampler=...)``.

    begun: gives that pass. n_most: how many batches an epoch of everything has, which is the length while none is begun.
    """

    def __init__(self, begun: Callable[[], Pass | None], n_most: int):
        self._begun, self._n_most = begun, n_most

    def __iter__(self) -> Iterator[list[int]]:
        here = self._filled(0)
        return iter([here.ids_of(batch).tolist() for batch in range(len(here))])

    def __len__(self) -> int:
        here = self._begun()
        return self._n_most if here is None else len(here)

    def _filled(self, fills: int) -> Pass:
        here = self._begun()
        if here is None:
            raise LoopError(
                "hiding: the loader was asked for batches before an epoch was begun; begin it with hiding.visible"
            )
        here.fills = fills
        return here


class Sampler(BatchSampler):
    """The same ids one by one, for loaders that make batches of ``batch_size`` themselves, whether they drop the last or not.

    Every batch is filled up to exactly that size with samples that do not count.
    """

    def __init__(self, begun: Callable[[], Pass | None], n_most: int, batch_size: int):
        super().__init__(begun, n_most)
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[int]:
        here = self._filled(self._batch_size)
        return (id for batch in range(len(here)) for id in here.ids_of(batch).tolist())

    def __len__(self) -> int:
        return super().__len__() * self._batch_size
