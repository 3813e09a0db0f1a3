"""Watchdog: when no rank makes progress, report every rank's position and stack, then abort.

Ranks wait for each other at every step: if one stops, all do, and MPI cannot reach them. A thread of each
rank therefore writes a heartbeat file, and reads those of the other ranks when its own rank has been idle too
long.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path

from ..attempt import Attempt
from ..console import resume_advice
from .heartbeat import Beat, Heartbeat, read_beats

_TICKS = 3  # between two reads of all heartbeats: a live rank has written in that time
WRITES_PER_S = 1000
"""Of all ranks' heartbeats together, to one file system."""
_WATCHERS = 64  # ranks that read all heartbeats, and report and abort: one that does ends all ranks
_MOST_LINES = 100  # of a report of where the ranks are


class Watchdog:
    """Thread that writes a rank's heartbeat and aborts when no rank has made progress for ``timeout_s``.

    It writes every ``timeout_s`` / 60, within 1 to 10 s, or every millisecond times the ranks if that is
    longer, once data and model are loaded: before that, the run directory may be another run's. A rank that
    waits for another one that makes progress never aborts. Of more than 64 ranks, up to 64 at equal distances
    read the others' heartbeats.
    """

    def __init__(
        self,
        heartbeat: Heartbeat,
        run: Path,
        rank: int,
        size: int,
        timeout_s: float,
        abort: Callable[[], object],
        attempt: Attempt | None = None,
    ) -> None:
        """Prepare the thread.

        Args:
            heartbeat: this rank's.
            run: the run directory.
            rank: of this process.
            size: number of ranks.
            timeout_s: seconds without progress, the job's ``record.hang_timeout``; 0 for no limit.
            abort: ends all ranks.
            attempt: that the rank is of; the rank leaves once it is over.
        """
        self._attempt = attempt or Attempt(run)
        self._heartbeat, self._run, self._rank, self._size = heartbeat, run, rank, size
        self._timeout_s, self._abort = timeout_s, abort
        pause_s = min(max(1.0, timeout_s / 60), 10.0) if timeout_s else 10.0
        self._pause_s = max(pause_s, size / WRITES_PER_S)
        self._watches = is_watcher(rank, size)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        patience, ticks = self._timeout_s, 0
        before: list[Beat | None] = []
        while not self._over.wait(self._pause_s if self._heartbeat.at else 1.0):
            self._attempt.leave_if_over()
            if self._heartbeat.at is None:
                continue
            with contextlib.suppress(OSError):  # a full disk must not end the run
                self._heartbeat.write(self._run, self._rank)
            if not self._watches or not self._timeout_s or self._heartbeat.idle_s < self._timeout_s:
                patience, ticks = self._timeout_s, 0
            elif self._heartbeat.idle_s >= patience:
                before = before if ticks else read_beats(self._run, self._size)
                ticks += 1
                if ticks > _TICKS:
                    now = read_beats(self._run, self._size)
                    if not any(map(self._makes_progress, before, now)):
                        return self._end(before, now)
                    # Frequent reads by all ranks would load the file system.
                    patience, ticks = self._heartbeat.idle_s + self._timeout_s, 0

    def _makes_progress(self, before: Beat | None, now: Beat | None) -> bool:
        if before is None or now is None or now.number == before.number:
            return False
        return now.at != before.at or now.idle_s < self._timeout_s / 2

    def _end(self, before: Sequence[Beat | None], now: Sequence[Beat | None]) -> None:
        me = f"rank {self._rank} of {self._size} on {socket.gethostname()}"
        silent = [rank for rank in range(self._size) if not _is_alive(before[rank], now[rank])]
        where = "\n".join(f"  {line}" for line in _table(now, silent))
        idle_s = self._heartbeat.idle_s
        hung = f"no rank has come further for {idle_s:.0f} s (record.hang_timeout is {self._timeout_s:g})"
        text = f"{me}, what its threads were at:\n{_stacks()}{me}, where the ranks were:\n{where}\n"
        # One write: all ranks print at once.
        with contextlib.suppress(OSError):  # the log may be on a full disk, too
            sys.stderr.write(f"{text}kakurenbo: {me}: {hung}; {_blame(now, silent)}; {resume_advice()}\n")
            sys.stderr.flush()
        self._over.wait(2 * self._pause_s)  # time for the other ranks to report
        self._abort()


def is_watcher(rank: int, size: int) -> bool:
    """Return whether a rank reads the heartbeats of all ranks: so many at most, at equal distances."""
    return rank % -(-size // _WATCHERS) == 0


def _is_alive(before: Beat | None, now: Beat | None) -> bool:
    return before is not None and now is not None and now.number != before.number


def _blame(beats: Sequence[Beat | None], silent: Sequence[int]) -> str:
    """Return the clause that names the ranks that the others wait for."""
    known = [beat for beat in beats if beat is not None]
    least = min(beat.at for beat in known) if known else None
    if silent:
        return " and ".join(_table(beats, silent, silent))
    behind = [beat.rank for beat in known if beat.at == least]
    if len(behind) == len(beats):
        return f"all ranks were in {least}"
    return " and ".join(f"{line}, is behind" for line in _table(beats, silent, behind))


def _table(
    beats: Sequence[Beat | None], silent: Sequence[int], only: Iterable[int] | None = None
) -> list[str]:
    """Return a line for each group of consecutive ranks with the same host and position."""

    def describe(rank: int) -> str:
        beat = beats[rank]
        if beat is None:
            return "without a heartbeat"
        return f"on {beat.host}: {beat.at}" + (
            f", no sign of life (process {beat.pid})" if rank in silent else ""
        )

    lines = []
    ranks = enumerate(range(len(beats)) if only is None else only)
    for (what, _), group in groupby(ranks, lambda pair: (describe(pair[1]), pair[1] - pair[0])):
        first, *more = (rank for _, rank in group)
        lines.append(f"{f'ranks {first} to {more[-1]}' if more else f'rank {first}'} {what}")
    left_out = len(lines) - _MOST_LINES
    return lines if left_out <= 0 else [*lines[:_MOST_LINES], f"and {left_out} lines more, in heartbeat/"]


def _stacks() -> str:
    """Return the stacks of all threads of this process."""
    with os.fdopen(os.memfd_create("stacks"), "w+") as file:  # faulthandler needs a file, disks may be full
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()
