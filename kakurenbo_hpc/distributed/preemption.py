"""Preemption: stop on SIGTERM or SIGUSR1, a file in the run directory, or the end of the walltime.

What follows, a checkpoint and exit code 75, or 143 where none could be written, is in ``engine/run.py``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.signals import SIGNALS, received
from ..errors import UserError, WorldError
from .comm import Comm, Pending

DEADLINE = "KAKURENBO_DEADLINE"


class Preemption:
    """Knows whether the run is asked to leave, and has all ranks learn of it at the same step.

    Asked by a signal to any rank, by the file ``stop`` in the run directory (whose text is the reason), or by
    the deadline in the environment, in Unix seconds. A signal does no more than raise a flag, however often
    it comes. Rank 0 alone looks at file and clock, at most once a second. The time that is left is taken at
    the start: no clock that jumps afterwards ends a run.
    """

    def __init__(self, comm: Comm, directory: Path | None = None, environ: Mapping[str, str] = os.environ):
        """Raises WorldError if the deadline is no number."""
        self._comm = comm
        self._file = None if directory is None or comm.rank else directory / "stop"
        deadline = None if comm.rank else _seconds(environ.get(DEADLINE))
        self._deadline = None if deadline is None else time.monotonic() + deadline - time.time()
        self._reason, self._looked = "", 0.0
        self._pending: Pending | None = None
        self._handlers: dict[int, Any] = {}
        self._signal: int | None = None
        self.why = ""

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._raise) for number in SIGNALS}
        if received:
            self._raise(received[0], None)
        return self

    def __exit__(self, *problem: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if problem[0] is None or (isinstance(problem[1], UserError) and problem[1].on_all_ranks):
            self._arrived()
        if self._signal is not None and not self.why:
            received.append(
                self._signal
            )  # too late for this run, but whatever comes next in this process is asked as well
        if self.why and self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink()

    def should_stop(self) -> bool:
        """Return whether all ranks leave now. Called between two steps, on all ranks.

        The answer is that of the call before, which had a whole step to travel: nobody waits for it. It is
        waited for, not polled, since polling would let ranks leave at different steps.
        """
        if self._arrived():
            return True
        self._pending = self._comm.post_max(bool(self._asked()))
        return False

    def should_stop_now(self) -> bool:
        """Return the same, of this moment; waits for all ranks."""
        return self.should_stop() or self._arrived()

    def _arrived(self) -> bool:
        """Return whether any rank was asked when the last question was posted, and remember why."""
        pending, self._pending = self._pending, None
        if pending is None or not pending.wait():
            return bool(self.why)
        self.why = next(reason for reason in self._comm.gather(self._asked()) if reason)
        return True

    def _asked(self) -> str:
        """Return why this rank thinks that the run should leave; empty if it does not."""
        now = time.monotonic()
        if not self._reason and now - self._looked >= 1:
            self._looked = now
            if self._deadline is not None and now >= self._deadline:
                self._reason = "the allotted time is over"
            elif self._file is not None and self._file.exists():
                text = ""
                with contextlib.suppress(OSError):  # it is there, whatever it is
                    text = " ".join(self._file.read_text(errors="replace").split())[:200]
                self._reason = f"{self._file} is there" + (f": {text}" if text else "")
        return self._reason

    def _raise(self, number: int, frame: object) -> None:
        self._signal = number
        self._reason = self._reason or f"{signal.Signals(number).name} came to rank {self._comm.rank}"


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        raise WorldError(
            f"{DEADLINE} is {text!r}, but must be a time in Unix seconds; unset it, or write $(date +%s) "
            "plus seconds"
        ) from None
