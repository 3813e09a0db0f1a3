"""The trail of an epoch: how far each of its passes has come, so that it can be left between two steps and taken up again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from ..core.batch import Batch, MicroBatch
from ..distributed.preemption import Preemption
from ..order.deal import EpochSchedule
from ..rundir.checkpoint.async_writer import CheckpointWriter

Found = Mapping[
    str, np.ndarray
]  # what a pass has found out on one rank so far: named arrays, for a checkpoint


class Resumable(Protocol):
    """What collects along a pass, and can be put down and taken up."""

    def state_dict(self) -> Found: ...

    def load_state_dict(self, found: Found) -> None: ...


class StopEarly(Exception):
    """All ranks have agreed to leave here, between two steps."""


class PassProgress:
    """The passes of the epoch that runs now, in their order: steps done, and what was found out.

    An epoch that is taken up again goes through its passes as it did the first time, only that what is done is not done
    again: plans and orders are decided anew from the same ledger, and every pass goes on after its last step.
    """

    def __init__(self, stop: Preemption | None = None, saver: CheckpointWriter | None = None):
        """saver: of a checkpoint that may be under way while steps are done."""
        self._stop, self._saver = stop, saver
        self._before: list[tuple[int, Found]] = []
        self._passes: list[tuple[int, Resumable]] = []

    def restore(self, before: Sequence[tuple[int, Found]]) -> None:
        """Let the next epoch go on where ``passed`` says that it was left."""
        self._before = list(before)

    def begin_epoch(self) -> None:
        self._passes = []

    def passed(self) -> list[tuple[int, Found]]:
        """Return, for each pass of this epoch, the steps that are done and what was found out on this rank."""
        return [(steps, finds.state_dict()) for steps, finds in self._passes]

    def begin_pass(self, finds: Resumable) -> int:
        """Begin the next pass and return how many of its steps are done; finds then knows what they found out."""
        done, found = self._before.pop(0) if self._before else (0, None)
        if found is not None:
            finds.load_state_dict(found)
        self._passes.append((done, finds))
        return done

    def step_done(self, step: int, may_stop: bool = True) -> None:
        """Note that this step of the pass is done. Raises Stopped, on all ranks, if they have agreed to leave."""
        self._passes[-1] = (step + 1, self._passes[-1][1])
        self._heed(may_stop)

    def along(
        self,
        micro_batches: EpochSchedule | Sequence[MicroBatch],
        read: Callable[[list[MicroBatch]], Iterator[Batch]],
        finds: Resumable,
        may_stop: bool = True,
    ) -> Iterator[Batch]:
        """Yield the batches of one pass that are not done yet; finds has taken in each before the next is asked for.

        read: from turns to batches. Raises Stopped.
        """
        done = self.begin_pass(finds)
        for batch in read([micro_batch for micro_batch in micro_batches if micro_batch.step >= done]):
            yield batch
            if batch.micro_batch.ends:
                self.step_done(batch.micro_batch.step, may_stop)

    def heeding(self, batches: Iterator[Batch], n: int) -> Iterator[Batch]:
        """Yield batches of which nothing is noted: an epoch that is left among them is taken up before them. Raises Stopped.

        n: how many the rank has that has most.
        """
        for _ in range(n):
            batch = next(batches, None)
            if batch is not None:
                yield batch
            self._heed()

    def _heed(self, may_stop: bool = True) -> None:
        if self._saver is not None:
            self._saver.poll()
        if may_stop and self._stop is not None and self._stop.should_stop():
            raise StopEarly
