"""From candidate batches to full batches: a look, a choice, a queue, and a step when every rank has a batch.

Ranks step together, as often as the rank that chose least can; who chose more keeps the rest in its queue. At the end of
an epoch all queues are emptied in last steps, so that every chosen sample is trained once and none waits for a rank that
will never come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..core.batch import Batch, Candidates, MethodState, MicroBatch
from ..core.plan import Epoch
from ..training.batch_stats import BatchStats, SampleStatsBuffer
from .context import Context


@dataclass(frozen=True)
class _Chosen:
    """Some chosen samples of one candidate batch. All (k, ...); losses: with their graph, or None.

    n_steps: optimizer steps taken when the losses were computed.
    """

    id: np.ndarray
    copy: np.ndarray
    weight: np.ndarray
    input: torch.Tensor
    target: torch.Tensor
    losses: torch.Tensor | None
    n_steps: int

    def __len__(self) -> int:
        return len(self.id)

    def split(self, n: int) -> tuple[_Chosen, _Chosen]:
        def part(rows: slice) -> _Chosen:
            losses = None if self.losses is None else self.losses[rows]
            arrays = (array[rows] for array in (self.id, self.copy, self.weight, self.input, self.target))
            return _Chosen(*arrays, losses, self.n_steps)

        return part(slice(0, n)), part(slice(n, None))


class BatchSelection:
    """Trains one epoch of candidates on this rank.

    looked, trained: what was seen of candidates, and of what was trained. n_forward: this rank's forward passes of both
    kinds. n_distinct: its samples trained at least once; no other rank has them. n_trained: samples trained by all ranks.
    steps: optimizer steps.
    """

    def __init__(self, epoch: Epoch, n_candidates: int, method_state: MethodState, s: Context):
        self.method_state = method_state
        self.looked, self.trained = SampleStatsBuffer(s.observed), SampleStatsBuffer(s.observed)
        self.n_forward = self.n_trained = self.steps = 0
        self._epoch, self._n_candidates, self._s = epoch, n_candidates, s
        self._method, self._learner, self._everyone, self._comm = (
            s.method,
            s.learner,
            s.everyone,
            s.world.comm,
        )
        self._local_batch = s.global_batch // s.world.size
        self._queue: list[_Chosen] = []
        self._ids: list[np.ndarray] = []
        self._progress = 0.0

    def train(self, batches: Iterator[Batch]) -> None:
        """Look at every candidate batch and take every step that is due."""
        for batch in batches:
            self._progress = batch.micro_batch.progress
            self._spare = self._rows(batch, np.zeros(1, np.int64), np.ones(1, np.float32))
            looks = self._method.looks(self.method_state)
            self._queue.append(self._choose(batch) if looks else self._whole(batch))
            n_least = int(self._comm.min(np.array([self._n_queued()]))[0])
            for _ in range(n_least // self._local_batch):
                self._step([self._local_batch] * self._comm.size, looks)
        while any(waiting := self._comm.gather(self._n_queued())):
            self._step([min(n, self._local_batch) for n in waiting], self._method.looks(self.method_state))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return what a rank has found out between two candidate batches. ``all_``: the same on all ranks, or anyone's.

        The samples that wait are named, not kept: their draws belong to (id, copy), so they can be read again.
        """
        queue = {
            name: np.concatenate([getattr(part, name) for part in [self._spare, *self._queue]])[1:]
            for name in _NAMED
        }
        return {
            **{f"looked_{name}": column for name, column in self.looked.state_dict().items()},
            **{f"trained_{name}": column for name, column in self.trained.state_dict().items()},
            **{f"queue_{name}": column for name, column in queue.items()},
            "ids": np.concatenate([np.zeros(0, np.int64), *self._ids]),
            "n_forward": np.array([self.n_forward]),
            "all_counts": np.array([self.n_trained, self.steps]),
            "all_progress": np.array([self._progress]),
            "all_spare": np.array([self._spare.id[0], self._spare.copy[0]]),
            **{f"all_memory_{name}": array for name, array in self.method_state.items()},
        }

    def load_state_dict(self, found: Mapping[str, np.ndarray]) -> None:
        """Go on where another sieve was when it had found this."""
        self.looked.load_state_dict(_under("looked_", found))
        self.trained.load_state_dict(_under("trained_", found))
        self.method_state = _under("all_memory_", found)
        self._ids = [found["ids"]]
        self.n_forward = int(found["n_forward"].sum())
        self.n_trained, self.steps = found["all_counts"].tolist()
        self._progress = float(found["all_progress"][0])
        waiting = _under("queue_", found)
        id, copy = [
            np.concatenate([found["all_spare"][[i]], waiting[name]]) for i, name in enumerate(("id", "copy"))
        ]
        weight = np.concatenate([np.ones(1, np.float32), waiting["weight"]])
        rows = np.arange(len(id))
        micro_batch = MicroBatch(
            0, id, copy.astype(np.int32), weight, rows, True, len(id), True, True, self._progress
        )
        (batch,) = self._s.train([micro_batch], self._epoch.number, augment=True)
        self._spare = self._rows(batch, rows[:1], np.ones(1, np.float32))
        self._queue = [self._rows(batch, rows[1:], np.ones(len(rows) - 1, np.float32))]

    @property
    def n_distinct(self) -> int:
        return len(np.unique(np.concatenate(self._ids))) if self._ids else 0

    def _n_queued(self) -> int:
        return sum(len(chosen) for chosen in self._queue)

    def _choose(self, batch: Batch) -> _Chosen:
        """Look at a candidate batch, let the method pick, and note what was seen."""
        keeps_graph = self._method.keeps_graph
        mode = "train" if keeps_graph else "eval"
        seen, losses = self._learner.forward_only(
            batch, mode, self._method.look_precision, keep_graph=keeps_graph
        )
        self.looked.add(seen)
        self.n_forward += len(batch.micro_batch.id) * batch.micro_batch.counts
        # A rank with nothing but a filler chooses with the others all the same: choosing may ask everyone.
        choice, self.method_state = self._method.select(
            self._epoch, _candidates([seen]), self.method_state, self._everyone
        )
        chosen = self._rows(batch, choice.rows, choice.weight)
        if not keeps_graph:
            return chosen
        return replace(chosen, losses=losses[torch.from_numpy(choice.rows).to(losses.device)])

    def _whole(self, batch: Batch) -> _Chosen:
        rows = np.arange(len(batch.micro_batch.id) * batch.micro_batch.counts)
        return self._rows(batch, rows, np.ones(len(rows), np.float32))

    def _rows(self, batch: Batch, rows: np.ndarray, weight: np.ndarray) -> _Chosen:
        micro_batch, picked = batch.micro_batch, torch.from_numpy(rows).to(batch.input.device)
        weight = weight * micro_batch.weight[rows]
        return _Chosen(
            micro_batch.id[rows],
            micro_batch.copy[rows],
            weight,
            batch.input[picked],
            batch.target[picked],
            None,
            self.steps,
        )

    def _take(self, n: int) -> list[_Chosen]:
        """Take the n samples that have waited longest."""
        taken: list[_Chosen] = []
        while n:
            head, rest = self._queue.pop(0).split(n)
            taken += [head] if len(head) else []
            self._queue[:0] = [rest] if len(rest) else []
            n -= len(head)
        return taken

    def _step(self, taken: list[int], looks: bool) -> None:
        """Take one optimizer step, on the first taken[r] samples of each rank's queue."""
        mine, n_global = self._take(taken[self._comm.rank]), sum(taken)
        place = self._n_candidates + self.n_trained + sum(taken[: self._comm.rank])
        seen = (self._step_kept if self._method.keeps_graph else self._step_afresh)(mine, place, n_global)
        self._ids += [part.id for part in mine]
        self.n_trained += n_global
        self.steps += 1
        if not looks:
            self.method_state = self._method.learned(_candidates(seen), self.method_state, self._everyone)

    def _step_afresh(self, mine: list[_Chosen], place: int, n_global: int) -> list[BatchStats]:
        """Pass everything forward again and back, in accumulated batches; a rank with nothing passes what does not count."""
        n = sum(map(len, mine))
        whole = _joined(mine or [self._spare])
        seen = []
        for part in range(self._s.accumulate):
            a, b = (i * n // self._s.accumulate for i in (part, part + 1))
            rows = slice(min(a, len(whole) - 1), max(b, a + 1))
            micro_batch = self._turn(whole, rows, place, n_global, part, counts=b > a)
            seen.append(self._learner.step(Batch(micro_batch, whole.input[rows], whole.target[rows])))
            self.trained.add(seen[-1])
        self.n_forward += n
        return seen

    def _step_kept(self, mine: list[_Chosen], place: int, n_global: int) -> list[BatchStats]:
        """Go back through the graphs that are as old as the weights; pass the others forward again."""
        fresh = [part for part in mine if part.n_steps == self.steps]
        stale = [part for part in mine if part.n_steps < self.steps]
        step = self._turn(self._spare, slice(None), place, n_global, 0, counts=False)
        batch = None
        if stale or not fresh:
            whole = _joined(stale or [self._spare])
            micro_batch = self._turn(whole, slice(None), place, n_global, 0, counts=bool(stale))
            batch = Batch(micro_batch, whole.input, whole.target)
        seen = self._learner.step_kept([(part.losses, part.weight) for part in fresh], step, batch)
        if seen is None:
            return []
        self.trained.add(seen)
        self.n_forward += sum(map(len, stale))
        return [seen]

    def _turn(
        self, whole: _Chosen, rows: slice, place: int, n_global: int, part: int, counts: bool
    ) -> MicroBatch:
        by_trained = (self.n_trained + n_global / 2) / self._s.homes.n
        return MicroBatch(
            step=self.steps,
            id=whole.id[rows],
            copy=whole.copy[rows],
            weight=whole.weight[rows],
            position=np.arange(place, place + len(whole))[rows],
            counts=counts,
            n_global=n_global,
            begins=part == 0,
            ends=part == self._s.accumulate - 1,
            progress=by_trained if self._method.clocked_by_trained else self._progress,
        )


_NAMED = ("id", "copy", "weight")


def _under(prefix: str, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in found.items() if name.startswith(prefix)}


def _joined(parts: list[_Chosen]) -> _Chosen:
    arrays = (np.concatenate([getattr(part, name) for part in parts]) for name in _NAMED)
    tensors = (torch.cat([getattr(part, name) for part in parts]) for name in ("input", "target"))
    return _Chosen(*arrays, *tensors, None, parts[0].n_steps)


def _candidates(seen: list[BatchStats]) -> Candidates:
    """Bring to the host what a choice is made by; nothing of fillers."""
    counting = [one for one in seen if one.micro_batch.counts]
    none = {name: np.zeros(0, np.float32) for one in seen[:1] for name in one.columns}
    columns = {
        name: np.concatenate([none[name], *(one.columns[name].cpu().numpy() for one in counting)])
        for name in none
    }
    ids = np.concatenate([np.zeros(0, np.int64), *(one.micro_batch.id for one in counting)])
    copies = np.concatenate([np.zeros(0, np.int32), *(one.micro_batch.copy for one in counting)])
    return Candidates(ids, copies, columns.pop("loss", np.zeros(0, np.float32)), columns)
