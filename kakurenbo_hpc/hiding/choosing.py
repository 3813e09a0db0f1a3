"""Batch-level selection in a loop of one's own: a queue of chosen samples, handed back in full batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..core.batch import Candidates, MethodState, MicroBatch
from ..core.plan import Epoch
from ..distributed.comm import Comm
from ..engine.batch_selection import as_candidates
from ..errors import LoopError
from ..selection.batch_level import BatchMethod
from ..selection.global_stats import GlobalStats
from ..training.batch_stats import BatchStats, SampleStatsBuffer
from .samplers import Pass


@dataclass(frozen=True)
class _Queued:
    """Chosen samples of one candidate batch: (k,) each, and the rows of the loader's batch."""

    id: np.ndarray
    copy: np.ndarray
    weight: np.ndarray
    batch: Any

    def __len__(self) -> int:
        return len(self.id)

    def rows(self, rows: np.ndarray | slice) -> _Queued:
        """Return some of the samples."""
        return _Queued(self.id[rows], self.copy[rows], self.weight[rows], take_rows(self.batch, rows))


class Choosing:
    """The training pass of one epoch that is chosen batch by batch. All calls are collective.

    Attributes:
        state: of the method, renewed along the way.
        candidates: the pass over the candidates.
        trained: the pass over what was chosen; its batches are known once they are due.
        n_trained: samples trained by all ranks.
        steps: optimizer steps.
    """

    def __init__(
        self,
        method: BatchMethod,
        epoch: Epoch,
        candidates: Pass,
        n_candidates: int,
        state: MethodState,
        columns: Mapping[str, np.ndarray],
        comm: Comm,
        global_batch: int,
        accumulate: int,
    ):
        """Begin with nothing queued.

        Args:
            method: chooses.
            epoch: that is trained.
            candidates: the pass over them.
            n_candidates: of all ranks.
            state: of the method before the epoch.
            columns: ``id`` of this rank's candidates, ascending, and the ledger columns that come with them.
            comm: all ranks.
            global_batch: samples of one optimizer step over all ranks.
            accumulate: batches of a rank per optimizer step.
        """
        self.state, self.candidates, self.n_trained, self.steps = state, candidates, 0, 0
        self.trained = Pass("chosen", epoch, [], SampleStatsBuffer(method.forward_columns))
        self._method, self._epoch, self._n_candidates, self._columns = method, epoch, n_candidates, columns
        self._comm, self._everyone, self._accumulate = comm, GlobalStats(comm), accumulate
        self._local_batch = global_batch // comm.size
        self.selection = method.selection_pass(global_batch)
        self._queue: list[_Queued] = []
        self._was_selected: list[bool] = []  # of each batch that was handed back
        self._observed: list[BatchStats] = []  # of the step that is being taken

    @property
    def selects(self) -> bool:
        """Whether the next candidates are selected from by a forward pass."""
        return self.selection.forward and self._method.selects_next(self.state)

    def choose(self, stats: BatchStats, batch: Any) -> list[tuple[np.ndarray, Any]]:
        """Queue what the method chooses of a candidate batch; return the (ids, batch) that are due.

        Args:
            stats: of the candidates' forward pass; without columns if there was none.
            batch: as the loader read it.
        """
        micro_batch, selects = stats.micro_batch, self._method.selects_next(self.state)
        spare = _Queued(micro_batch.id, micro_batch.copy, micro_batch.weight, batch)
        rows = np.arange(len(micro_batch.id) * micro_batch.counts)
        weight = np.ones(len(rows), np.float32)
        if selects:
            candidates = self._with_columns(as_candidates([stats]))
            choice, self.state = self._method.select(self._epoch, candidates, self.state, self._everyone)
            rows, weight = choice.rows, choice.weight
        chosen = spare.rows(rows)
        self._queue.append(_Queued(chosen.id, chosen.copy, chosen.weight * weight, chosen.batch))
        due: list[tuple[np.ndarray, Any]] = []
        for n_taken in self._due_steps():
            due += self._hand_back(n_taken, spare.rows(slice(1)), micro_batch.progress)
        self._was_selected += [selects] * len(due)
        return due

    def observed(self, stats: BatchStats) -> None:
        """Let the method know of a training batch that followed no selection, once its step is complete."""
        self._observed.append(stats)
        if stats.micro_batch.ends:
            if not self._was_selected[self.trained.n_observed - 1]:
                batch = as_candidates(self._observed)
                self.state = self._method.on_step(batch, self.state, self._everyone)
            self._observed = []

    def _due_steps(self) -> list[list[int]]:
        """Return how many samples each rank trains in each step that is due; in the end all is due."""
        waiting = self._comm.allgather(np.array([sum(map(len, self._queue))]))
        if not self.selection.queues:
            return [waiting.tolist()] if waiting.any() else []
        n_full = int(waiting.min()) // self._local_batch
        steps = [[self._local_batch] * self._comm.size] * n_full
        waiting -= n_full * self._local_batch
        is_last = self.candidates.n_observed == len(self.candidates)
        while is_last and not self.selection.only_full and waiting.any():
            steps.append(np.minimum(waiting, self._local_batch).tolist())
            waiting -= steps[-1]
        return steps

    def _hand_back(self, n_taken: list[int], spare: _Queued, progress: float) -> list[tuple[np.ndarray, Any]]:
        """Return the batches of one step; a rank without samples passes ``spare``, which does not count."""
        n, n_global = n_taken[self._comm.rank], sum(n_taken)
        whole = self._take(n) if n else spare
        first = self._n_candidates + self.n_trained + sum(n_taken[: self._comm.rank])
        batches = []
        for part in range(self._accumulate):
            a, b = (i * n // self._accumulate for i in (part, part + 1))
            mine = whole.rows(slice(min(a, len(whole) - 1), max(b, a + 1)))
            micro_batch = MicroBatch(
                step=self.steps,
                id=mine.id,
                copy=mine.copy,
                weight=mine.weight,
                position=np.arange(first + a, first + a + len(mine)),
                counts=b > a,
                n_global=n_global,
                begins=part == 0,
                ends=part == self._accumulate - 1,
                progress=progress,
            )
            self.trained.append(micro_batch)
            batches.append((mine.id, mine.batch))
        self.n_trained, self.steps = self.n_trained + n_global, self.steps + 1
        return batches

    def _take(self, n: int) -> _Queued:
        """Remove the n samples that were queued first, and return them."""
        taken: list[_Queued] = []
        while n:
            head = self._queue.pop(0)
            if len(head) > n:
                self._queue.insert(0, head.rows(slice(n, None)))
                head = head.rows(slice(n))
            taken += [head] if len(head) else []
            n -= len(head)
        return _Queued(
            id=np.concatenate([part.id for part in taken]),
            copy=np.concatenate([part.copy for part in taken]),
            weight=np.concatenate([part.weight for part in taken]),
            batch=join_rows([part.batch for part in taken]),
        )

    def _with_columns(self, candidates: Candidates) -> Candidates:
        rows = np.searchsorted(self._columns["id"], candidates.id) if self._columns else None
        extra = {name: column[rows] for name, column in self._columns.items() if name != "id"}
        return Candidates(candidates.id, candidates.copy, candidates.loss, {**candidates.extra, **extra})


def take_rows(batch: Any, rows: np.ndarray | slice) -> Any:
    """Return some rows of a batch: tensors and arrays, in mappings, lists and tuples.

    Raises:
        LoopError: it holds something else.
    """
    if isinstance(batch, torch.Tensor):
        return batch[torch.from_numpy(rows).to(batch.device) if isinstance(rows, np.ndarray) else rows]
    if isinstance(batch, np.ndarray):
        return batch[rows]
    if isinstance(batch, Mapping):
        return {name: take_rows(part, rows) for name, part in batch.items()}
    if isinstance(batch, tuple | list):
        return [take_rows(part, rows) for part in batch]
    raise LoopError(
        f"hiding: choose got a batch that holds a {type(batch).__name__}, which has no rows; let the loader "
        "return tensors, in tuples, lists or mappings"
    )


def join_rows(batches: Sequence[Any]) -> Any:
    """Return the rows of several batches of the same structure as one batch."""
    first = batches[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(list(batches))
    if isinstance(first, Mapping):
        return {name: join_rows([batch[name] for batch in batches]) for name in first}
    if isinstance(first, list):
        return [join_rows(parts) for parts in zip(*batches, strict=True)]
    return np.concatenate(batches)
