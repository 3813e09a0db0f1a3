"""Status of submitted runs: state, progress and requeues, as a table or as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import DONE, UserError
from ..rundir.watchdog.heartbeat import seconds_since_beat
from .job_states import Found, find_states
from .progress import progress
from .schedulers.scheduler import ENDED, JobState
from .submission import BatchFolder, find_submissions
from .text_table import format_table
from .walltime import format_clock

_TAIL_BYTES = 65536  # of metrics.jsonl: more than its last lines
_LINES = 5  # of which the seconds of an epoch are the median
_HEADS = ("run", "job", "state", "epochs", "accuracy", "s/epoch", "left", "heartbeat", "requeues")
_DETAIL = "in the words of the batch system"


@dataclass(frozen=True)
class RunStatus:
    """Status of a run; None where something is not known. Its fields are the keys of ``status --json``.

    Attributes:
        run: its directory.
        job: id of its newest job.
        state: queued, running, done, cancelled, failed or unknown.
        detail: in the words of the batch system.
        reason: why it waits.
        begins: when it may start.
        n_epochs: epochs that are done.
        epochs: epochs that it is to have.
        accuracy: of the last epoch's validation, or mean IoU.
        epoch_s: seconds an epoch, the median of the last ones.
        left_s: seconds to its end at this pace.
        heartbeat_s: seconds since the last heartbeat of its ranks, while it runs.
        n_requeues: how often it was requeued.
    """

    run: str
    job: str | None
    state: str
    detail: str
    reason: str | None = None
    begins: str | None = None
    n_epochs: int | None = None
    epochs: int | None = None
    accuracy: float | None = None
    epoch_s: float | None = None
    left_s: float | None = None
    heartbeat_s: float | None = None
    n_requeues: int | None = None

    def row(self) -> tuple[str, ...]:
        """Return its cells in the table."""
        n_epochs = _text(self.n_epochs) + (f"/{self.epochs}" if self.epochs is not None else "")
        left = "-" if self.left_s is None else format_clock(round(self.left_s))
        beat = "-" if self.heartbeat_s is None else f"{self.heartbeat_s:.0f} s ago"
        return (
            *(self.run, self.job or "-", self.state, n_epochs, _text(self.accuracy, ".4f")),
            *(_text(self.epoch_s, ".1f"), left, beat, _text(self.n_requeues), self.detail),
        )


class Progress(NamedTuple):
    """What the last lines of a run's metrics tell: epochs done, accuracy, seconds an epoch."""

    n_epochs: int | None = None
    accuracy: float | None = None
    epoch_s: float | None = None


def status(folder: Path, as_json: bool = False) -> int:
    """Print the status of a run, or of all runs below a folder; ``unknown`` where it cannot be found out.

    Raises:
        UserError: nothing was submitted there, or the only batch folder is damaged.
    """
    batches = find_submissions(folder)
    found = find_states(batches)
    if len(batches) == 1:
        _require_whole(batches[0])
    rows = [_describe(batch, found[batch.run]) for batch in batches]
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        print(format_table([(*_HEADS, _DETAIL), *(row.row() for row in rows)]))
        if len(batches) == 1:
            asked = batches[0].read()
            if told := progress(batches[0].run, asked.walltime_s, asked.epochs):
                print(told)
    return DONE


def _require_whole(batch: BatchFolder) -> None:
    """Raise UserError if a batch folder is damaged."""
    batch.read()
    _ = batch.job_ids


def _describe(batch: BatchFolder, found: Found) -> RunStatus:
    progress = read_progress(batch.run)
    if isinstance(found, UserError):
        found, state = JobState("running", str(found)), "unknown"
    else:
        state = found.status
    job_ids: list[str] = []
    epochs = left_s = heartbeat_s = None
    with contextlib.suppress(UserError):  # then it is damaged, which ``found`` says
        job_ids, epochs = batch.job_ids, batch.read().epochs
    if state not in ENDED:
        heartbeat_s = seconds_since_beat(batch.run) if state != "queued" else None
        if epochs is not None and progress.epoch_s is not None:
            left_s = max(0, epochs - (progress.n_epochs or 0)) * progress.epoch_s
    return RunStatus(
        str(batch.run),
        job_ids[-1] if job_ids else None,
        state,
        found.detail,
        found.reason or None,
        found.begins or None,
        progress.n_epochs,
        epochs,
        progress.accuracy,
        progress.epoch_s,
        left_s,
        heartbeat_s,
        batch.n_requeues,
    )


def read_progress(run: Path) -> Progress:
    """Return how far a run has come, by the last lines of its metrics."""
    lines = []
    for text in _tail(run / "metrics.jsonl").splitlines()[-_LINES:]:
        with contextlib.suppress(ValueError):  # the first of the tail is cut, the last perhaps being written
            if isinstance(line := json.loads(text), dict) and isinstance(line.get("epoch"), int):
                lines.append(line)
    if not lines:
        return Progress()
    last = lines[-1]
    accuracy = next((last[key] for key in ("val_accuracy", "val_iou") if last.get(key) is not None), None)
    seconds = [total for line in lines if (total := (line.get("seconds") or {}).get("total"))]
    return Progress(last["epoch"] + 1, accuracy, statistics.median(seconds) if seconds else None)


def _tail(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _text(value: float | None, form: str = "") -> str:
    return "-" if value is None else format(value, form)
