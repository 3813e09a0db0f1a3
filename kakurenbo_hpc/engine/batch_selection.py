"""Batch-level selection on one rank: candidate batches, selection passes, a queue, and steps of full batches.

Ranks step together, as often as the rank that selected least can; a rank that selected more keeps the rest
in its queue. At the end of an epoch all queues are emptied in last steps, so that every selected sample is
trained once, unless the method wants full batches only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch

from ..core.batch import Batch, Candidates, MethodState, MicroBatch
from ..core.plan import Epoch
from ..selection.batch_level import BatchMethod
from ..training.batch_stats import BatchStats, SampleStatsBuffer
from .context import Context


@dataclass(frozen=True)
class _Selected:
    """Selected samples of one candidate batch, (k, ...) each.

    losses are of the selection pass, with their autograd graph, or None; chosen_at is the number of optimizer
    steps taken before that pass.
    """

    id: np.ndarray
    copy: np.ndarray
    weight: np.ndarray
    input: torch.Tensor
    target: torch.Tensor
    losses: torch.Tensor | None
    chosen_at: np.ndarray

    def __len__(self) -> int:
        return len(self.id)

    def split(self, n: int) -> tuple[_Selected, _Selected]:
        """Return the first n samples, and the rest."""

        def part(rows: slice) -> _Selected:
            losses = None if self.losses is None else self.losses[rows]
            return _Selected(
                self.id[rows],
                self.copy[rows],
                self.weight[rows],
                self.input[rows],
                self.target[rows],
                losses,
                self.chosen_at[rows],
            )

        return part(slice(0, n)), part(slice(n, None))


class BatchSelection:
    """Trains one epoch of candidates on this rank.

    Attributes:
        method_state: the method's state, renewed along the way.
        candidate_stats: statistics of the selection passes.
        trained_stats: statistics of the training passes.
        n_forward: this rank's forward passes of both kinds.
        n_trained: samples trained by all ranks.
        steps: optimizer steps.
        n_stale_steps: sum over this rank's trained samples of the steps between selection pass and training.
    """

    def __init__(
        self,
        epoch: Epoch,
        n_candidates: int,
        method_state: MethodState,
        context: Context,
        columns: Mapping[str, np.ndarray] = {},
    ):
        """Begin with nothing queued.

        Args:
            epoch: that is trained.
            n_candidates: of all ranks.
            method_state: before the epoch.
            context: of the run.
            columns: ``id`` of this rank's candidates, ascending, and the ledger columns that come with them.
        """
        self.method_state = method_state
        self.candidate_stats = SampleStatsBuffer(context.method.forward_columns)
        self.trained_stats = SampleStatsBuffer(context.method.forward_columns)
        self.n_forward = self.n_trained = self.steps = self.n_stale_steps = 0
        self._columns = columns
        self._epoch, self._n_candidates, self._context = epoch, n_candidates, context
        self._method = cast(BatchMethod, context.method)  # no other method selects at batch level
        self._pass = self._method.selection_pass(context.global_batch)
        self._learner, self._everyone, self._comm = context.learner, context.everyone, context.world.comm
        size = context.world.size
        self._local_batches = np.diff(np.arange(size + 1) * context.global_batch // size)
        self._queue: list[_Selected] = []
        self._ids: list[np.ndarray] = []
        self._progress = 0.0

    def train(self, batches: Iterator[Batch]) -> None:
        """Select from every candidate batch and take every step that is due."""
        for batch in batches:
            self._progress = batch.micro_batch.progress
            self._spare = self._rows(batch, np.zeros(1, np.int64), np.ones(1, np.float32))
            selects = self._method.selects_next(self.method_state)
            passed = self._pass_forward(batch) if selects else None
            if self._pass.pipeline:
                self._take_due_steps(selects)
            self._queue.append(self._whole(batch) if passed is None else self._choose(batch, *passed))
            if not self._pass.pipeline:
                self._take_due_steps(selects)
        if self._pass.pipeline:
            self._take_due_steps(self._method.selects_next(self.method_state))
        while not self._pass.only_full and (waiting := self._waiting()).any():
            selects = self._method.selects_next(self.method_state)
            self._step(np.minimum(waiting, self._local_batches), selects)

    def _take_due_steps(self, selects: bool) -> None:
        """Take the steps for which every rank has a full batch; without a queue, one on what there is."""
        if not self._pass.queues:
            if (waiting := self._waiting()).any():
                self._step(waiting, selects)
            return
        n_full = self._n_queued() // self._local_batches[self._comm.rank]
        for _ in range(int(self._comm.min(np.array([n_full]))[0])):
            self._step(self._local_batches, selects)

    def _waiting(self) -> np.ndarray:
        """Return (P,) int64, the samples in each rank's queue."""
        return self._comm.allgather(np.array([self._n_queued()]))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return this rank's state between two candidate batches; ``all_`` marks values common to all ranks.

        Of queued samples only ids and copies are saved: their draws belong to these, so they can be read
            again.
        """
        queue = {
            name: np.concatenate([getattr(part, name) for part in [self._spare, *self._queue]])[1:]
            for name in ("id", "copy", "weight", "chosen_at")
        }
        return {
            **{f"looked_{name}": column for name, column in self.candidate_stats.state_dict().items()},
            **{f"trained_{name}": column for name, column in self.trained_stats.state_dict().items()},
            **{f"queue_{name}": column for name, column in queue.items()},
            "ids": np.concatenate([np.zeros(0, np.int64), *self._ids]),
            "n_forward": np.array([self.n_forward]),
            "n_stale_steps": np.array([self.n_stale_steps]),
            "all_counts": np.array([self.n_trained, self.steps]),
            "all_progress": np.array([self._progress]),
            "all_spare": np.array([self._spare.id[0], self._spare.copy[0]]),
            **{f"all_memory_{name}": array for name, array in self.method_state.items()},
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from a state that ``state_dict`` returned on the same number of ranks."""
        self.candidate_stats.load_state_dict(_without_prefix("looked_", state))
        self.trained_stats.load_state_dict(_without_prefix("trained_", state))
        self.method_state = _without_prefix("all_memory_", state)
        self._ids = [state["ids"]]
        self.n_forward, self.n_stale_steps = (
            int(state[name].sum()) for name in ("n_forward", "n_stale_steps")
        )
        self.n_trained, self.steps = state["all_counts"].tolist()
        self._progress = float(state["all_progress"][0])
        waiting = _without_prefix("queue_", state)
        ids, copies = [
            np.concatenate([state["all_spare"][[i]], waiting[name]]) for i, name in enumerate(("id", "copy"))
        ]
        weight = np.concatenate([np.ones(1, np.float32), waiting["weight"]])
        rows = np.arange(len(ids))
        micro_batch = MicroBatch(
            0, ids, copies.astype(np.int32), weight, rows, True, len(ids), True, True, self._progress
        )
        (batch,) = self._context.train([micro_batch], self._epoch.number, augment=True)
        self._spare = self._rows(batch, rows[:1], np.ones(1, np.float32))
        queued = self._rows(batch, rows[1:], np.ones(len(rows) - 1, np.float32))
        self._queue = [replace(queued, chosen_at=waiting["chosen_at"])]

    @property
    def n_distinct(self) -> int:
        """This rank's samples that were trained at least once; no other rank has them."""
        return len(np.unique(np.concatenate(self._ids))) if self._ids else 0

    def _n_queued(self) -> int:
        return sum(len(selected) for selected in self._queue)

    def _pass_forward(self, batch: Batch) -> tuple[BatchStats, torch.Tensor | None, int]:
        """Pass a candidate batch forward; return its statistics, its losses, and the steps taken before."""
        if not self._pass.forward:
            unknown = torch.full((len(batch.micro_batch.id),), torch.nan)
            return BatchStats(batch.micro_batch, {"loss": unknown}), None, self.steps
        reuse = self._pass.reuse_graph
        mode = "train" if reuse else self._pass.mode
        with self._learner.parts("selection_forward"):
            passed = [
                self._learner.forward_only(part, mode, self._pass.precision, keep_graph=reuse)
                for part in self._parts(batch)
            ]
        names, losses = passed[0][0].columns, torch.cat([losses for _, losses in passed])
        columns = {name: torch.cat([stats.columns[name] for stats, _ in passed]) for name in names}
        batch_stats = BatchStats(batch.micro_batch, columns)
        self.candidate_stats.add(batch_stats)
        self.n_forward += len(batch.micro_batch.id) * batch.micro_batch.counts
        return batch_stats, losses if reuse else None, self.steps

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        """Yield a candidate batch in as many parts as a step has; whole where its graphs are kept anyway."""
        whole, n = batch.micro_batch, len(batch.micro_batch.id)
        n_parts = 1 if self._pass.reuse_graph else min(n, self._context.accumulate)
        for part in range(n_parts):
            rows = slice(part * n // n_parts, (part + 1) * n // n_parts)
            micro_batch = replace(
                whole,
                id=whole.id[rows],
                copy=whole.copy[rows],
                weight=whole.weight[rows],
                position=whole.position[rows],
                begins=part == 0,
                ends=part == n_parts - 1,
            )
            yield Batch(micro_batch, batch.input[rows], batch.target[rows])

    def _choose(
        self, batch: Batch, batch_stats: BatchStats, losses: torch.Tensor | None, passed_at: int
    ) -> _Selected:
        """Let the method choose from a candidate batch."""
        # A rank with nothing but a filler selects with the others all the same: selecting may be collective.
        choice, self.method_state = self._method.select(
            self._epoch, self._with_columns(as_candidates([batch_stats])), self.method_state, self._everyone
        )
        selected = self._rows(batch, choice.rows, choice.weight)
        selected = replace(selected, chosen_at=np.full(len(choice.rows), passed_at))
        if losses is None:
            return selected
        return replace(selected, losses=losses[torch.from_numpy(choice.rows).to(losses.device)])

    def _with_columns(self, candidates: Candidates) -> Candidates:
        """Return the candidates with the ledger columns that come with them."""
        if not self._columns:
            return candidates
        rows = np.searchsorted(self._columns["id"], candidates.id)
        extra = {name: column[rows] for name, column in self._columns.items() if name != "id"}
        return replace(candidates, extra={**candidates.extra, **extra})

    def _whole(self, batch: Batch) -> _Selected:
        rows = np.arange(len(batch.micro_batch.id) * batch.micro_batch.counts)
        return self._rows(batch, rows, np.ones(len(rows), np.float32))

    def _rows(self, batch: Batch, rows: np.ndarray, weight: np.ndarray) -> _Selected:
        micro_batch, picked = batch.micro_batch, torch.from_numpy(rows).to(batch.input.device)
        weight = weight * micro_batch.weight[rows]
        return _Selected(
            micro_batch.id[rows],
            micro_batch.copy[rows],
            weight,
            batch.input[picked],
            batch.target[picked],
            None,
            np.full(len(rows), self.steps),
        )

    def _take(self, n: int) -> list[_Selected]:
        """Remove the n samples that were queued first, and return them."""
        taken: list[_Selected] = []
        while n:
            head, rest = self._queue.pop(0).split(n)
            taken += [head] if len(head) else []
            self._queue[:0] = [rest] if len(rest) else []
            n -= len(head)
        return taken

    def _step(self, n_taken: np.ndarray, selects: bool) -> None:
        """Take one optimizer step, on the first n_taken[r] samples of each rank r's queue; (P,) int64."""
        self._context.pass_progress.before_train_step(self.steps)
        rank = self._comm.rank
        local, n_global = self._take(int(n_taken[rank])), int(n_taken.sum())
        position = self._n_candidates + self.n_trained + int(n_taken[:rank].sum())
        train = self._step_with_graphs if self._pass.reuse_graph else self._step_anew
        batch_stats = train(local, position, n_global)
        self._ids += [part.id for part in local]
        self.n_stale_steps += sum(int((self.steps - part.chosen_at).sum()) for part in local)
        self.n_trained += n_global
        self.steps += 1
        if not selects:
            self.method_state = self._method.on_step(
                as_candidates(batch_stats), self.method_state, self._everyone
            )

    def _step_anew(self, local: list[_Selected], position: int, n_global: int) -> list[BatchStats]:
        """Train in accumulated micro-batches; a rank that has no sample passes one that does not count."""
        n = sum(map(len, local))
        whole = _concatenate(local or [self._spare])
        all_stats = []
        for part in range(self._context.accumulate):
            a, b = (i * n // self._context.accumulate for i in (part, part + 1))
            rows = slice(min(a, len(whole) - 1), max(b, a + 1))
            micro_batch = self._micro_batch(whole, rows, position, n_global, part, counts=b > a)
            all_stats.append(self._learner.step(Batch(micro_batch, whole.input[rows], whole.target[rows])))
            self.trained_stats.add(all_stats[-1])
        self.n_forward += n
        return all_stats

    def _step_with_graphs(self, local: list[_Selected], position: int, n_global: int) -> list[BatchStats]:
        """Train through the graphs that are as old as the weights; pass the other samples forward again."""
        fresh = [part for part in local if part.losses is not None and part.chosen_at[0] == self.steps]
        stale = [part for part in local if part.losses is None or part.chosen_at[0] < self.steps]
        step = self._micro_batch(self._spare, slice(None), position, n_global, 0, counts=False)
        batch = None
        if stale or not fresh:
            whole = _concatenate(stale or [self._spare])
            micro_batch = self._micro_batch(whole, slice(None), position, n_global, 0, counts=bool(stale))
            batch = Batch(micro_batch, whole.input, whole.target)
        batch_stats = self._learner.step_kept(
            [(part.losses, part.weight) for part in fresh if part.losses is not None], step, batch
        )
        if batch_stats is None:
            return []
        self.trained_stats.add(batch_stats)
        self.n_forward += sum(map(len, stale))
        return [batch_stats]

    def _micro_batch(
        self, whole: _Selected, rows: slice, position: int, n_global: int, part: int, counts: bool
    ) -> MicroBatch:
        by_trained = (self.n_trained + n_global / 2) / self._context.homes.n
        return MicroBatch(
            step=self.steps,
            id=whole.id[rows],
            copy=whole.copy[rows],
            weight=whole.weight[rows],
            position=np.arange(position, position + len(whole))[rows],
            counts=counts,
            n_global=n_global,
            begins=part == 0,
            ends=part == self._context.accumulate - 1,
            progress=by_trained if "trained" in self.method_state else self._progress,
        )


def _without_prefix(prefix: str, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}


def _concatenate(parts: list[_Selected]) -> _Selected:
    return _Selected(
        id=np.concatenate([part.id for part in parts]),
        copy=np.concatenate([part.copy for part in parts]),
        weight=np.concatenate([part.weight for part in parts]),
        input=torch.cat([part.input for part in parts]),
        target=torch.cat([part.target for part in parts]),
        losses=None,
        chosen_at=np.concatenate([part.chosen_at for part in parts]),
    )


def as_candidates(all_stats: list[BatchStats]) -> Candidates:
    """Copy to the host what a method selects by; without fillers."""
    counting = [batch_stats for batch_stats in all_stats if batch_stats.micro_batch.counts]
    names = [name for batch_stats in all_stats[:1] for name in batch_stats.columns]
    columns = {
        name: torch.cat([all_stats[0].columns[name][:0], *(stats.columns[name] for stats in counting)])
        .cpu()
        .numpy()
        for name in names
    }
    ids = np.concatenate([np.zeros(0, np.int64), *(stats.micro_batch.id for stats in counting)])
    copies = np.concatenate([np.zeros(0, np.int32), *(stats.micro_batch.copy for stats in counting)])
    return Candidates(ids, copies, columns.pop("loss", np.zeros(0, np.float32)), columns)
