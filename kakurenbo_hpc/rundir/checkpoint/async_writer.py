"""Asynchronous checkpoint writer: snapshot on every rank, writing in a background thread, commit by rank 0.

Only the main thread communicates with other ranks. Whether all ranks have written is asked by a non-blocking
reduction between two steps and read one step later, so no rank waits. A checkpoint that the disk refuses is
reported, and the run continues.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...distributed.comm import Comm, Pending
from .retention import commit, partial_folder, remove_partial
from .shards import RankState, write_shards
from .snapshot import Snapshot


class CheckpointWriter:
    """Writes the checkpoints of a run, one at a time. All calls are collective."""

    def __init__(
        self,
        folder: Path,
        keep: int,
        comm: Comm,
        snapshot: Snapshot,
        print_line: Callable[[str], None],
        on_progress: Callable[[], object],
        before_commit: Callable[[], object] = lambda: None,
    ) -> None:
        """Start the writer's thread.

        Args:
            folder: the run's folder ``checkpoints``.
            keep: how many of the newest checkpoints stay, besides the best.
            comm: communicator of all ranks.
            snapshot: copies the learner's state.
            print_line: prints a warning; only rank 0's is seen.
            on_progress: called whenever the disk has taken another chunk.
            before_commit: called on rank 0, from the writer's thread, before a checkpoint gets its name.
        """
        self._before_commit = before_commit
        self._folder, self._keep, self._comm, self._snapshot = folder, keep, comm, snapshot
        self._print_line, self._on_progress = print_line, on_progress
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._name = ""
        self._facts: dict[str, Any] = {}
        self._shards: Future[dict[str, str]] | None = None  # write of this rank's shards
        self._commit: Future[None] | None = None  # commit or removal, on rank 0
        self._pending: Pending | None = None
        self._active, self._complete = False, True

    def save(self, name: str, state: RankState, facts: dict[str, Any]) -> None:
        """Begin to write a checkpoint of this moment, after the previous one has finished.

        Args:
            name: of the checkpoint, as in ``retention.py``.
            state: this rank's; the arrays of ledger and method state must not change until it is written.
            facts: plain values for the manifest.
        """
        self.finish()
        steps = {} if state.mid_epoch is None else {"steps": [steps for steps, _ in state.mid_epoch.passed]}
        self._name, self._facts = name, {**facts, "n_total": state.ledger.n_total, **steps}
        state = replace(state, learner=self._snapshot.of(state.learner))
        folder = partial_folder(self._folder, name, facts.get("attempt", 0))
        self._shards = self._thread.submit(write_shards, folder, self._comm.rank, state, self._on_progress)
        self._active = True

    def poll(self) -> None:
        """Advance an active checkpoint between two steps, without waiting."""
        if self._shards is None:
            return
        pending, self._pending = self._pending, None
        if pending is not None and not pending.wait():
            self._gather(self._shards)
        else:
            self._pending = self._comm.post_max(not self._shards.done())

    def finish(self) -> bool:
        """Wait for the last checkpoint; return False if it could not be written."""
        if self._pending is not None:
            self._pending.wait()
        if self._shards is not None:
            self._gather(self._shards)
        if self._active:
            self._complete, self._active = self._comm.broadcast(self._is_committed()), False
        return self._complete

    def _gather(self, shards: Future[dict[str, str]]) -> None:
        """Gather the checksums on rank 0, whose thread commits the checkpoint, or removes its files."""
        problem = _disk_problem(shards)
        gathered = self._comm.collect((problem, {} if problem else shards.result()))
        self._shards = self._pending = None
        problem = self._comm.broadcast(
            next((f"rank {rank}: {problem}" for rank, (problem, _) in enumerate(gathered) if problem), "")
        )
        if problem:
            self._warn(problem)
        if self._comm.rank == 0:
            files = {name: digest for _, written in gathered for name, digest in written.items()}
            if problem:
                self._commit = self._thread.submit(remove_partial, self._folder)
            else:
                self._commit = self._thread.submit(self._commit_files, files)
        self._complete = not problem

    def _commit_files(self, files: dict[str, str]) -> None:
        self._before_commit()
        commit(self._folder, self._name, files, self._facts, self._keep)

    def _is_committed(self) -> bool:
        """Wait for rank 0's thread and return whether it has committed the checkpoint."""
        problem = _disk_problem(self._commit) if self._commit else ""
        if problem:
            self._warn(problem)
            self._thread.submit(remove_partial, self._folder)
        return self._complete and not problem

    def _warn(self, problem: str) -> None:
        self._print_line(
            f"warning: checkpoint {self._name} could not be written ({problem}); the run goes on, "
            "with the one before to go back to"
        )


def _disk_problem(work: Future[Any]) -> str:
    """Return the OSError that ended the thread's work, empty if none did; raise any other exception of it."""
    problem = cause = work.exception()
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__  # torch and zipfile fail once more while they close the file
    if problem is not None and cause is None:
        raise problem
    return cause.strerror or str(cause) if isinstance(cause, OSError) else ""
