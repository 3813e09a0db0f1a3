"""Timer of checkpoints inside epochs, which goes off at the same step on all ranks."""

from __future__ import annotations

import time

from ..distributed.comm import Comm, Pending


class CheckpointTimer:
    """Counts seconds since the last checkpoint, by rank 0's clock.

    Args:
        comm: all ranks.
        interval_s: between two checkpoints; None for never.
    """

    def __init__(self, comm: Comm, interval_s: float | None):
        self._comm, self._interval_s = comm, interval_s
        self._begun = time.monotonic()
        self._pending: Pending | None = None

    def restart(self) -> None:
        """Count from now on, and leave no question open. Collective."""
        self._begun = time.monotonic()
        if self._pending is not None:
            self._pending.wait()
            self._pending = None

    def is_due(self) -> bool:
        """Return whether a checkpoint is due. Called between two steps, on all ranks.

        The answer is that of the call before, which had a whole step to travel: nobody waits for it.
        """
        if self._interval_s is None:
            return False
        pending, self._pending = self._pending, None
        if pending is not None and pending.wait():
            return True
        is_over = self._comm.rank == 0 and time.monotonic() - self._begun >= self._interval_s
        self._pending = self._comm.post_max(is_over)
        return False
