"""Checkpoints written while training goes on: every rank copies what will change, and a thread of its own writes.

Only the main thread speaks to other ranks. Whether all parts are written is asked between two steps and heard one step later, so nobody
waits; then rank 0's thread makes them a checkpoint. What a disk refuses to take is told, and the run goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...distributed.comm import Comm, Pending
from .manifest import beside, clear, name_checkpoint
from .shards import RankState, write_part
from .snapshot import Snapshot


class CheckpointWriter:
    """Writes the checkpoints of a run, one at a time. All calls are collective."""

    def __init__(
        self,
        folder: Path,
        keep: int,
        comm: Comm,
        snapshot: Snapshot,
        say: Callable[[str], None],
        goes_on: Callable[[], object],
    ):
        """snapshot: takes copies of the learner's state. say: heard on rank 0. goes_on: called while a disk takes more of it."""
        self._folder, self._keep, self._comm, self._snapshot, self._say = folder, keep, comm, snapshot, say
        self._goes_on = goes_on
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._name, self._facts = "", {}
        self._writing: Future | None = None  # this rank's part
        self._naming: Future | None = None  # on rank 0, all ranks' parts
        self._pending: Pending | None = None
        self._under_way, self._whole = False, True

    def save(self, name: str, part: RankState, facts: dict[str, Any]) -> None:
        """Begin to write a checkpoint of this moment; waits for the one before. Arrays of ledger and memory must stay as they are.

        name: as checkpoint.py says. facts: plain values, for the manifest.
        """
        self.finish()
        steps = {} if part.inside is None else {"steps": [steps for steps, _ in part.inside.passed]}
        self._name, self._facts = name, {**facts, "n_total": part.ledger.n_total, **steps}
        part = replace(part, learner=self._snapshot.of(part.learner))
        self._writing = self._thread.submit(
            write_part, beside(self._folder, name), self._comm.rank, part, self._goes_on
        )
        self._under_way = True

    def go_on(self) -> None:
        """Bring a checkpoint that is under way nearer to its end, between two steps, without waiting."""
        if self._writing is None:
            return
        pending, self._pending = self._pending, None
        if pending is not None and not pending.wait():
            self._gather()
        else:
            self._pending = self._comm.post_max(not self._writing.done())

    def finish(self) -> bool:
        """Wait until the last checkpoint is one; return False if it could not be written."""
        if self._pending is not None:
            self._pending.wait()
        if self._writing is not None:
            self._gather()
        if self._under_way:
            self._whole, self._under_way = self._comm.broadcast(self._named()), False
        return self._whole

    def _gather(self) -> None:
        """Learn what all ranks have written; let rank 0's thread make it a checkpoint, or remove it."""
        problem = _refused(self._writing)
        told = self._comm.gather((problem, {} if problem else self._writing.result()))
        self._writing = self._pending = None
        problem = next((f"rank {rank}: {problem}" for rank, (problem, _) in enumerate(told) if problem), "")
        if problem:
            self._complain(problem)
        if self._comm.rank == 0:
            files = {name: sums for _, written in told for name, sums in written.items()}
            work = (
                (clear, self._folder)
                if problem
                else (name_checkpoint, self._folder, self._name, files, self._facts, self._keep)
            )
            self._naming = self._thread.submit(*work)
        self._whole = not problem

    def _named(self) -> bool:
        """Return whether rank 0's thread has made the parts a checkpoint; waits for it."""
        problem = _refused(self._naming) if self._naming else ""
        if problem:
            self._complain(problem)
            self._thread.submit(clear, self._folder)
        return self._whole and not problem

    def _complain(self, problem: str) -> None:
        self._say(
            f"warning: checkpoint {self._name} could not be written ({problem}); the run goes on, with the one before to go back to"
        )


def _refused(work: Future) -> str:
    """Return why the disk did not take what a thread wrote, empty if it did. Raises whatever else went wrong there."""
    problem = cause = work.exception()
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__  # torch and zipfile fail once more while they close the file
    if problem is not None and cause is None:
        raise problem
    return cause.strerror or str(cause) if cause else ""
