"""Heartbeat: the position of each rank, updated at every step and written to one file per rank."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple, TypeVar

from ...core.batch import Batch
from ..timers import STAGES

T = TypeVar("T")

STAGE_NAMES = ("set-up", "staging", *STAGES)
_RANKS_IN_FOLDER = 1000  # a folder takes so many files every few seconds, not all those of 65,536 ranks


class Position(NamedTuple):
    """Progress of a rank, ordered: a smaller position is behind.

    Attributes:
        epoch: from 0.
        stage: index in STAGE_NAMES.
        step: of that stage, from 1; 0 before the first.
    """

    epoch: int
    stage: int
    step: int

    def __str__(self) -> str:
        return f"epoch {self.epoch + 1}, {STAGE_NAMES[self.stage]}" + (
            f", step {self.step}" if self.step else ""
        )


@dataclass(frozen=True)
class Beat:
    """One heartbeat of a rank.

    Attributes:
        rank: which wrote it.
        host: its host name.
        pid: its process.
        at: its position.
        idle_s: seconds since its last progress.
        number: count of the rank's heartbeats.
        attempt: number of the attempt that the rank is of; 0 without one.
    """

    rank: int
    host: str
    pid: int
    at: Position
    idle_s: float
    number: int
    attempt: int = 0


class Heartbeat:
    """This rank's position. Updates are in memory; only ``write`` writes a file."""

    def __init__(self, attempt: int = 0) -> None:
        self._attempt = attempt
        self.at: Position | None = None  # None until the run directory is this run's
        self._since, self._number = time.monotonic(), 0

    def enter(self, epoch: int, stage: str) -> None:
        """Enter a stage, one of STAGE_NAMES."""
        self._move(Position(epoch, STAGE_NAMES.index(stage), 0))

    def along(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches of a stage, and update the step with each."""
        for batch in batches:
            if self.at is not None:
                self._move(self.at._replace(step=batch.micro_batch.step + 1))
            yield batch

    def passing(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, and record progress with each."""
        for item in items:
            self.touch()
            yield item

    def touch(self) -> None:
        """Record progress at the current position; from any thread."""
        self._since = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds since the last progress."""
        return time.monotonic() - self._since

    def write(self, run: Path, rank: int) -> None:
        """Write this rank's heartbeat into a run directory, atomically but not synced.

        ``enter`` was called before.
        """
        if self.at is None:
            raise RuntimeError("no stage has been entered yet")
        self._number += 1
        path = _path(run, rank)
        beside = path.with_name(f".{path.name}.part")
        idle_s = round(self.idle_s, 1)
        beat = asdict(
            Beat(rank, socket.gethostname(), os.getpid(), self.at, idle_s, self._number, self._attempt)
        )
        at = {"epoch": self.at.epoch, "stage": STAGE_NAMES[self.at.stage], "step": self.at.step}
        written = datetime.now(timezone.utc).isoformat(
            timespec="seconds"
        )  # for people: clocks differ, and jump
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps({**beat, "at": at, "written": written}), encoding="utf-8")
        os.replace(beside, path)

    def _move(self, at: Position) -> None:
        self.at, self._since = at, time.monotonic()


def read_beats(run: Path, n_ranks: int) -> list[Beat | None]:
    """Read each rank's last heartbeat; None where there is none that can be read."""
    return [_read(_path(run, rank)) for rank in range(n_ranks)]


def seconds_since_beat(run: Path) -> float | None:
    """Return how long ago any rank wrote its heartbeat, by the clocks of the file system and this machine."""
    written = []
    for path in (run / "heartbeat").rglob("rank_*.json"):
        with contextlib.suppress(OSError):
            written.append(path.stat().st_mtime)
    return max(0.0, time.time() - max(written)) if written else None


def clear(run: Path) -> None:
    """Remove the heartbeats of an earlier start."""
    for path in (run / "heartbeat").rglob("rank_*.json"):
        path.unlink(missing_ok=True)


def _read(path: Path) -> Beat | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        at = Position(values["at"]["epoch"], STAGE_NAMES.index(values["at"]["stage"]), values["at"]["step"])
        attempt = values.get("attempt", 0)
        return Beat(
            values["rank"], values["host"], values["pid"], at, values["idle_s"], values["number"], attempt
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _path(run: Path, rank: int) -> Path:
    thousand = rank // _RANKS_IN_FOLDER
    folder = run / "heartbeat" / f"{thousand:04d}" if thousand else run / "heartbeat"
    return folder / f"rank_{rank:04d}.json"
