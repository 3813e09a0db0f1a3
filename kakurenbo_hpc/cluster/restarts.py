"""Restarts of a run's ranks inside an allocation, after a crash or the loss of a node.

See ``README.md`` in this folder for what ends a run and what starts it again.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import REQUEUE, USER_ERROR, RunDirectoryError
from ..rundir.attempt import Attempt
from ..rundir.checkpoint.names import Position, list_checkpoints, position
from ..rundir.console import print_error, print_line, resume_advice
from ..rundir.exits import add_exit
from ..rundir.lock import Lock
from ..rundir.watchdog.heartbeat import read_beats
from ..rundir.watchdog.watchdog import WRITES_PER_S
from .allocation import Allocation, TooFewNodes
from .launchers.launcher import CommandLine, Layout
from .run_ranks import RanksEnd, forward_signals, run_once

_LOOK_S = 20.0  # between two reads of all heartbeats
_SILENT_S = 120.0  # ranks write every ten seconds; a network file system may show it a minute later

Start = Callable[[Attempt, Layout, bool], CommandLine]
"""From an attempt, its layout, and whether it resumes, to the line that starts its ranks."""
Choose = Callable[[int], tuple[Allocation, Layout]]
"""From the number of a start in this allocation to its nodes, checked, and the layout on them."""


@dataclass
class RestartCount:
    """Decides whether another restart may follow.

    Attributes:
        most: restarts without a finished epoch between them.
        used: of these.
    """

    most: int
    used: int = 0
    _before: Position | None = None

    def refuse(self, newest: Position, is_own: bool = False) -> str:
        """Count an end of the ranks.

        Args:
            newest: the run's newest checkpoint.
            is_own: whether the attempt that has ended wrote it, perhaps in an epoch that it began anew.

        Returns:
            Why they are not started again; empty if they are.
        """
        before, self._before = self._before, newest
        if before is not None and newest <= before and not is_own:
            return "they ended twice without a newer checkpoint between"
        if before is not None and newest.n_epochs > before.n_epochs:
            self.used = 0
        if self.used >= self.most:
            return f"--restarts is {self.most}, and no epoch has ended since the first of these"
        self.used += 1
        return ""


@dataclass
class LostRanks:
    """Finds ranks of an attempt whose heartbeat stands still: they, or their nodes, are gone."""

    attempt: Attempt
    n_ranks: int
    hosts: set[str] = field(default_factory=set)
    _looked: float = field(default_factory=lambda: time.monotonic())
    _last: dict[int, tuple[int, float, str]] = field(default_factory=dict)

    def find(self) -> str:
        """Return what is known of lost ranks, and note hosts without any other; empty where none is lost."""
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return ""
        if now - self._looked > 2 * _LOOK_S:  # this process, or its file system, was asleep
            self._last.clear()
        self._looked = now
        for beat in read_beats(self.attempt.run, self.n_ranks):
            if beat and beat.attempt == self.attempt.number:
                number, when, _ = self._last.get(beat.rank, (-1, now, ""))
                self._last[beat.rank] = (beat.number, when if number == beat.number else now, beat.host)
        patience_s = _SILENT_S + 2 * self.n_ranks / WRITES_PER_S
        silent = [rank for rank, (_, when, _) in self._last.items() if now - when > patience_s]
        hosts = {self._last[rank][2] for rank in silent}
        alive = {host for rank, (_, _, host) in self._last.items() if rank not in silent}
        self.hosts = hosts - alive if alive else set()
        if not silent:
            return ""
        ranks = f"ranks {', '.join(map(str, sorted(silent)))}" if len(silent) > 1 else f"rank {silent[0]}"
        return f"{ranks} on {', '.join(sorted(hosts))}: no heartbeat for {patience_s:.0f} s"


def run_attempts(start: Start, choose: Choose, run: Path, most: int, resume: bool) -> int:
    """Start the ranks of a run, and again after a crash, from the newest checkpoint. Return our exit code.

    The run's lock is held for all attempts. Where too few nodes are left, the code is 75.

    Args:
        start: makes the command line of an attempt.
        choose: chooses its nodes.
        run: the run directory.
        most: restarts without a finished epoch between them.
        resume: whether the first attempt resumes.

    Raises:
        RunDirectoryError: another run is under way there, or it cannot be written to.
    """
    count = RestartCount(most)
    with _lock(run), forward_signals(run / "stop") as forwarding:
        nth = 0
        while True:
            nth += 1
            try:
                allocation, layout = choose(nth)
            except TooFewNodes as problem:  # the next allocation has others
                print_error(f"kakurenbo: {problem}; {resume_advice(leaves_to_be_requeued=True)}")
                return REQUEUE
            attempt = Attempt.begin(run)
            line = start(attempt, layout, resume)
            print_line(str(line))
            lost = LostRanks(attempt, layout.n_ranks)
            end = run_once(line, forwarding, lost.find)
            if end.code == USER_ERROR and allocation.n_missing:  # full disks, one sample for a BatchNorm
                advice = resume_advice(leaves_to_be_requeued=True)
                end = RanksEnd(REQUEUE, f"{end.line}; {allocation.n_missing} ranks were missing: {advice}")
            attempt.kill_processes()
            allocation.leave_out(lost.hosts, "its ranks gave no heartbeat")
            newest = _newest(run)
            reached = (newest and position(newest)) or Position(0, 0)
            why = count.refuse(reached, _wrote(attempt, newest)) if end.is_crash else ""
            restarts, reason = end.is_crash and not why, end.line.removeprefix("kakurenbo: ")
            facts = {"attempt": attempt.number, "code": end.code, "why": reason, "restarts": restarts}
            add_exit(run, "ended", **facts, checkpoint=newest.name if newest else None)
            if not restarts:
                return _leave(end, why)
            resume = True
            print_line(
                f"== restart {count.used} of {most}, attempt {attempt.number} ended: {reason}; from "
                f"{newest.name if newest else 'the beginning'}"
            )


def _lock(run: Path) -> Lock:
    """Return the run's lock, taken."""
    lock = Lock(run, "launcher")
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock.take()
        lock.sign()
    except OSError as problem:
        raise RunDirectoryError(
            f"{run}: cannot be written to ({problem.strerror}); give another --run-dir"
        ) from None
    return lock


def _newest(run: Path) -> Path | None:
    return next(iter(list_checkpoints(run / "checkpoints")), None)


def _wrote(attempt: Attempt, checkpoint: Path | None) -> bool:
    if checkpoint is None:
        return False
    with contextlib.suppress(OSError, ValueError):  # what reads manifests whole imports torch
        return json.loads((checkpoint / "manifest.json").read_text()).get("attempt") == attempt.number
    return False


def _leave(end: RanksEnd, why: str) -> int:
    if end.line:
        print_error(f"{end.line}; not started again: {why}" if why else end.line)
    return end.code
