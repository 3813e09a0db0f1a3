"""Heartbeats: where each rank is, told at every step, and written into a file a rank for whoever waits for it."""

from __future__ import annotations

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

PLACES = ("set-up", "staging", *STAGES)


class Whereabouts(NamedTuple):
    """How far a rank has come; the smaller is behind. stage: its number in PLACES. step: of that stage, from 1; 0 before the first."""

    epoch: int
    stage: int
    step: int

    def __str__(self) -> str:
        return f"epoch {self.epoch + 1}, {PLACES[self.stage]}" + (f", step {self.step}" if self.step else "")


@dataclass(frozen=True)
class Beat:
    """One rank's word. number: of its beats so far. idle_s: seconds for which it has come no further."""

    rank: int
    host: str
    pid: int
    at: Whereabouts
    idle_s: float
    number: int


class Heartbeat:
    """This rank's whereabouts. To tell them costs nothing: nothing is written before ``write``."""

    def __init__(self):
        self.at: Whereabouts | None = None  # None until the run directory is this run's
        self._since, self._number = time.monotonic(), 0

    def enter(self, epoch: int, stage: str) -> None:
        """Tell that a stage, one of PLACES, begins."""
        self._move(Whereabouts(epoch, PLACES.index(stage), 0))

    def along(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Pass the batches of a stage through, and tell of each when it is read."""
        for batch in batches:
            if self.at is not None:
                self._move(self.at._replace(step=batch.micro_batch.step + 1))
            yield batch

    def passing(self, items: Iterable[T]) -> Iterator[T]:
        """Pass items through, and tell with each that this rank goes on."""
        for item in items:
            self.goes_on()
            yield item

    def goes_on(self) -> None:
        """Tell that what this rank is at comes further; any thread may."""
        self._since = time.monotonic()

    @property
    def idle_s(self) -> float:
        return time.monotonic() - self._since

    def write(self, run: Path, rank: int) -> None:
        """Write this rank's beat into a run directory, whole, but not synced: after a power cut nobody waits."""
        self._number += 1
        path = _path(run, rank)
        beside = path.with_name(f".{path.name}.part")
        beat = asdict(
            Beat(rank, socket.gethostname(), os.getpid(), self.at, round(self.idle_s, 1), self._number)
        )
        at = {"epoch": self.at.epoch, "stage": PLACES[self.at.stage], "step": self.at.step}
        written = datetime.now(timezone.utc).isoformat(
            timespec="seconds"
        )  # for people: clocks differ, and jump
        path.parent.mkdir(exist_ok=True)
        beside.write_text(json.dumps({**beat, "at": at, "written": written}), encoding="utf-8")
        os.replace(beside, path)

    def _move(self, at: Whereabouts) -> None:
        self.at, self._since = at, time.monotonic()


def read_beats(run: Path, n_ranks: int) -> list[Beat | None]:
    """Return each rank's last beat; None where there is none that can be read."""
    return [_read(_path(run, rank)) for rank in range(n_ranks)]


def clear(run: Path) -> None:
    """Remove the beats of an earlier start."""
    for path in (run / "heartbeat").glob("rank_*.json"):
        path.unlink(missing_ok=True)


def _read(path: Path) -> Beat | None:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        at = Whereabouts(told["at"]["epoch"], PLACES.index(told["at"]["stage"]), told["at"]["step"])
        return Beat(told["rank"], told["host"], told["pid"], at, told["idle_s"], told["number"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _path(run: Path, rank: int) -> Path:
    return run / "heartbeat" / f"rank_{rank:04d}.json"
