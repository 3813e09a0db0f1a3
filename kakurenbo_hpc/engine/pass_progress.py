"""Progress of each pass of the epoch, for resuming mid-epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from ..core.batch import Batch, MicroBatch
from ..distributed.preemption import Preemption
from ..order.deal import EpochSchedule
from ..rundir.checkpoint.async_writer import CheckpointWriter

PassState = tuple[int, Mapping[str, np.ndarray]]  # steps done, and this rank's results so far


class Resumable(Protocol):
    """Results of a pass that can be saved and restored between two steps."""

    def state_dict(self) -> Mapping[str, np.ndarray]:
        """Return the results so far, as named arrays."""

    def load_state_dict(self, columns: Mapping[str, np.ndarray]) -> None:
        """Restore results that ``state_dict`` returned."""


class StopEarly(Exception):
    """All ranks have agreed to stop between two steps."""


class PassProgress:
    """The passes of the current epoch, in order: steps done and results so far.

    A resumed epoch runs its passes as it did the first time: plans and orders are computed anew from the same
    ledger. Each pass then continues after its last completed step.

    Args:
        stop: tells when to stop; None for never.
        writer: writes checkpoints in the background and needs a call after each step; None if there is none.

    Attributes:
        on_step: called on all ranks after each step of a pass that is recorded and may be left.
        before_train_step: called on all ranks before each optimizer step, with the number of the epoch's
            optimizer steps so far.
    """

    def __init__(self, stop: Preemption | None = None, writer: CheckpointWriter | None = None):
        self._stop, self._writer = stop, writer
        self.on_step: Callable[[], object] = lambda: None
        self.before_train_step: Callable[[int], object] = lambda n_steps: None
        self._restored: list[PassState] = []
        self._passes: list[tuple[int, Resumable]] = []

    def restore(self, passes: Sequence[PassState]) -> None:
        """Let the next epoch continue where ``state`` was taken."""
        self._restored = list(passes)

    def state(self) -> list[PassState]:
        """Return, for each pass of this epoch, the steps done and this rank's results."""
        return [(n_done, results.state_dict()) for n_done, results in self._passes]

    def begin_epoch(self) -> None:
        """Forget the passes of the epoch before."""
        self._passes = []

    def begin_pass(self, results: Resumable) -> int:
        """Begin the next pass, restore its results, and return how many of its steps are done."""
        n_done = 0
        if self._restored:
            n_done, columns = self._restored.pop(0)
            results.load_state_dict(columns)
        self._passes.append((n_done, results))
        return n_done

    def step_done(self, step: int, may_stop: bool = True) -> None:
        """Record that this step of the current pass is done.

        Raises:
            StopEarly: on all ranks, if they have agreed to stop.
        """
        self._passes[-1] = (step + 1, self._passes[-1][1])
        self._check_stop(may_stop)
        if may_stop:
            self.on_step()

    def run_pass(
        self,
        micro_batches: EpochSchedule | Sequence[MicroBatch],
        read: Callable[[list[MicroBatch]], Iterator[Batch]],
        results: Resumable,
        may_stop: bool = True,
    ) -> Iterator[Batch]:
        """Yield the batches of one pass that are not done yet.

        Args:
            micro_batches: of the whole pass.
            read: returns the batches of these micro-batches.
            results: has taken in each batch before the next one is requested.
            may_stop: whether the pass may be left between two steps.

        Yields:
            The batches, in order.

        Raises:
            StopEarly: on all ranks, if they have agreed to stop.
        """
        n_done = self.begin_pass(results)
        for batch in read([micro_batch for micro_batch in micro_batches if micro_batch.step >= n_done]):
            yield batch
            if batch.micro_batch.ends:
                self.step_done(batch.micro_batch.step, may_stop)

    def run_unrecorded(self, batches: Iterator[Batch], n: int, may_stop: bool = True) -> Iterator[Batch]:
        """Yield the batches of a pass that is not recorded: an epoch that is left here repeats all of it.

        Args:
            batches: of this rank.
            n: the largest number of batches on any rank.
            may_stop: whether the pass may be left between two batches.

        Yields:
            The batches, in order.

        Raises:
            StopEarly: on all ranks, if they have agreed to stop.
        """
        for _ in range(n):
            batch = next(batches, None)
            if batch is not None:
                yield batch
            self._check_stop(may_stop)

    def _check_stop(self, may_stop: bool = True) -> None:
        if self._writer is not None:
            self._writer.poll()
        if may_stop and self._stop is not None and self._stop.should_stop():
            raise StopEarly
