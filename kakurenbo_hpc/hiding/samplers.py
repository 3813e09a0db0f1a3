"""Samplers for a DataLoader: the ids of one pass, in batches or one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from ..core.batch import MicroBatch
from ..core.plan import Epoch
from ..order.deal import EpochSchedule
from ..training.batch_stats import SampleStatsBuffer


class Pass:
    """One pass over some samples on this rank.

    Attributes:
        name: which pass of its epoch this is.
        epoch: the epoch.
        stats_buffer: statistics of the batches observed so far.
        n_observed: their number.
        n_given: batches that a sampler has given to a loader so far.
        batch_size: samples that every batch is padded to, for loaders that want equal batches; 0 for none.
    """

    def __init__(
        self,
        name: Literal["whole", "visible", "hidden", "chosen"],
        epoch: Epoch,
        schedule: EpochSchedule | Sequence[MicroBatch],
        stats_buffer: SampleStatsBuffer,
    ):
        self.name, self.epoch, self.stats_buffer = name, epoch, stats_buffer
        self.n_observed, self.n_given, self.batch_size = 0, 0, 0
        self._micro_batches = list(schedule)
        self._first = 0
        self._length = len(self._micro_batches)
        self._cached = (-1, -1), np.zeros(0, np.int64)

    def __len__(self) -> int:
        return self._length

    def __str__(self) -> str:
        return f"batch {self.n_observed} of epoch {self.epoch.number}"

    @property
    def micro_batch(self) -> MicroBatch:
        """The next batch to be observed."""
        return self._micro_batches[self.n_observed]

    @property
    def ids(self) -> np.ndarray:
        """(k,) int64, samples of the next batch, padding included; the same array until it is observed."""
        key = (self.n_observed, self.batch_size)
        if self._cached[0] != key:
            self._cached = key, self.ids_of(self.n_observed)
        return self._cached[1]

    def ids_of(self, batch: int) -> np.ndarray:
        """Return the ids that the loader reads in one batch.

        Padding repeats the first sample; only the first copy counts.
        """
        ids = self._micro_batches[batch].id
        return np.concatenate([ids, np.full(max(0, self.batch_size - len(ids)), ids[0])])

    def give(self) -> Iterator[list[int]]:
        """Yield the ids of each batch, and count what was given.

        The first to be read is the first to be observed. It stays the first: a loader that reads on after the
        pass's last batch gets batches of this pass again, not of the next, and is noticed.
        """
        if not self.n_given:
            self._first = self.n_observed
        for batch in range(self._first, len(self)):
            self.n_given = max(self.n_given, batch + 1)
            yield self.ids_of(batch).tolist()

    def append(self, micro_batch: MicroBatch) -> None:
        """Add a batch that no sampler has to give."""
        self._micro_batches.append(micro_batch)
        self._length = self.n_given = len(self._micro_batches)

    def stop_early(self) -> None:
        """End the pass after the batches that are observed already."""
        self._length = self.n_observed


class _PassSampler:
    """What both samplers have in common."""

    def __init__(self, current: Callable[[], Pass]):
        self._current = current

    def _pad_to(self, batch_size: int) -> Pass:
        """Return the current pass, with its batches padded."""
        current = self._current()
        current.batch_size = batch_size
        return current

    def set_epoch(self, epoch: int) -> None:
        """Do nothing, for loops that tell their sampler the epoch: hiding knows it."""


class BatchSampler(_PassSampler):
    """This rank's batches of the current pass, as lists of ids, for ``DataLoader(batch_sampler=...)``.

    While there is no pass it reads all of the rank's samples, which ``observe`` does not take.

    Args:
        current: returns the pass that is to be read.
    """

    def __iter__(self) -> Iterator[list[int]]:
        return self._pad_to(0).give()

    def __len__(self) -> int:
        return len(self._current())


class Sampler(_PassSampler):
    """The same ids one by one, for loaders that make batches of ``batch_size`` themselves.

    Every batch is padded to exactly that size, so that the loader may drop the last batch or not.

    Args:
        current: returns the pass that is to be read.
        batch_size: of the loader.
    """

    def __init__(self, current: Callable[[], Pass], batch_size: int):
        super().__init__(current)
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[int]:
        return (sample for batch in self._pad_to(self.batch_size).give() for sample in batch)

    def __len__(self) -> int:
        return len(self._current()) * self.batch_size
