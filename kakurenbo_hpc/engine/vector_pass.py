"""Vector pass: sends h, r and p of every sample to the rank that chooses, and its choice to home ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..core.ledger import Homes
from ..core.rng import Stream
from ..data.dataset import Dataset
from ..data.loader import Loader, plain_micro_batches
from ..distributed.comm import SerialComm
from ..errors import JobError
from ..local_data.shards import ShardLoader
from ..selection.subsets.exact import round_rows
from ..selection.subsets.owners import assign_owners, check_memory, plan_rounds
from ..selection.subsets.scoring import Scores, residuals
from ..selection.subsets.vectors import FromVectors, Group, Vectors
from ..training.outputs import OutputReader
from .context import Context
from .scoring_pass import pass_blocks, send_home

OUTPUTS = {"input": "input", "residual": "probability", "probability": "probability"}


class Round(NamedTuple):
    """A round of the pass.

    Attributes:
        blocks: ids of the samples among which to choose.
        judges: ids among the samples to judge by, where there are any.
        owner: (C,) int64, the rank of each class; (0,) where all ranks choose together.
    """

    blocks: list[np.ndarray]
    judges: list[np.ndarray]
    owner: np.ndarray


class VectorPass:
    """Chooses by vectors: forward passes in rounds of classes, one exchange each, and one that brings home.

    In a round only samples of its classes are passed forward. A block of the pass holds samples of one class,
    in order of ids, so that neither ranks nor rounds change what a block is.
    """

    def __init__(self, method: FromVectors, context: Context, where: str = "score"):
        """Plan the rounds. Collective; call it before training, so that errors come early.

        Args:
            method: chooses.
            context: of the run.
            where: begins messages.

        Raises:
            JobError: the network has no linear classifier, or the vectors do not fit into memory.
        """
        comm = context.world.comm
        self._method, self._context, self._who = method, context, f"{where} {method.method}"
        names = tuple(dict.fromkeys(OUTPUTS[name] for name in method.wants))
        self._reader = comm.run_or_raise_together(
            lambda: OutputReader(context.learner, names, context.data.shape, context.world.device)
        )
        self._label = _labels_of(context.data.train, context.train, context)
        self._judges = self._open_judges()
        n_classes, width = context.learner.n_classes, self._reader.width
        widths = {"input": width, "residual": n_classes, "probability": n_classes}
        self._row = np.dtype(
            [("id", np.int64), ("label", np.int32)]
            + [(name, np.float32, (widths[name] if name in method.wants else 0,)) for name in widths]
        )
        self._rounds = comm.run_or_raise_together(self._plan)

    def _open_judges(self) -> tuple[Loader, np.ndarray] | None:
        """Return a loader of the samples that the method judges by, and their labels; None for no others.

        Raises:
            JobError: there are none; on all ranks alike.
        """
        if getattr(self._method, "target", "train") == "train":
            return None
        data, world = self._context.data, self._context.world
        if data.held_out is None:
            raise _on_all_ranks(
                JobError(
                    f"{self._who}: target is validation, but nothing is held out of the training samples; "
                    "set data.holdout: 0.1, or target: train"
                )
            )
        loader = Loader(data.held_out, 0, world.device)
        return loader, _labels_of(data.held_out, loader, self._context)

    def _plan(self) -> list[Round]:
        """Return the rounds."""
        method, block, size = self._method, self._method.block, self._context.world.size
        if not method.by_class:
            homes = self._context.homes
            most = int(np.diff(homes.starts).max())
            check_memory(f"a rank has {most} samples", most, self._row.itemsize, 0, method.memory_limit)
            self._check_batches()
            n_judges = 0 if self._judges is None else len(self._judges[1])
            blocks, judged = (_cut(np.arange(n), block) for n in (homes.n, n_judges))
            return [Round(blocks, judged, np.zeros(0, np.int64))]
        sizes = np.bincount(self._label, minlength=self._context.learner.n_classes)
        owner = assign_owners(sizes, size)
        rounds = plan_rounds(sizes, owner, self._row.itemsize, method.matrices, method.memory_limit)
        judges = np.zeros(0, np.int64) if self._judges is None else self._judges[1]
        return [
            Round(_blocks(self._label, classes, block), _blocks(judges, classes, block), owner)
            for classes in rounds
        ]

    def _check_batches(self) -> None:
        """Check that the mean gradients of batches, and matrices of their pairs, fit into a rank's memory."""
        method, homes = self._method, self._context.homes
        if method.together == 1:
            return
        n, n_ranks = -(-homes.n // method.together), homes.n_ranks
        width = self._reader.width if getattr(method, "gradient", "full") == "full" else 0
        needed = 8 * self._context.learner.n_classes * (width + 1) * n * (1 + min(n_ranks, 2)) / n_ranks
        needed = (needed + method.matrices * 8 * n**2) / 2**30
        if needed > method.memory_limit:
            raise JobError(
                f"{self._who}: mean gradients of {n} batches take {needed:.3g} GiB of a rank, but "
                f"memory_limit is {method.memory_limit:g}; raise it or batch, or set gradient to bias"
            )

    @property
    def n_passes(self) -> int:
        """Samples that are passed forward, over all ranks."""
        return self._context.homes.n + (0 if self._judges is None else len(self._judges[1]))

    def choose(self, seed: int) -> tuple[Scores, np.ndarray]:
        """Pass all samples and choose; return the scores and labels of this rank's rows. Collective."""
        method, context = self._method, self._context
        found = [
            (group.rows, method.choose_all(group))
            for one in self._rounds
            for group in self._groups(*self._receive_round(one), Stream(seed))
        ]
        finite = np.array([sum(np.isfinite(scores.score).sum() for _, scores in found)])
        if not context.world.comm.sum(finite)[0]:
            raise _on_all_ranks(
                JobError(
                    f"{self._who}: no sample has finite vectors; the training has diverged, so lower "
                    "training.lr"
                )
            )
        return self._bring_home([(rows.id, rows.label, scores) for rows, scores in found])

    def _receive_round(self, one: Round) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the rows that this rank chooses among, and those that it judges by."""
        rows = self._receive(one.blocks, self._label, one.owner, self._context.train)
        if self._judges is None:
            return rows, None
        loader, label = self._judges
        return rows, self._receive(one.judges, label, one.owner, loader)

    def _receive(
        self,
        blocks: Sequence[np.ndarray],
        labels: np.ndarray,
        owner: np.ndarray,
        loader: Loader | ShardLoader,
    ) -> np.ndarray:
        """Pass this rank's share of the blocks forward; return the rows (k,) that this rank owns."""
        context, comm = self._context, self._context.world.comm
        first, last = (r * len(blocks) // comm.size for r in (comm.rank, comm.rank + 1))
        ids = np.concatenate([np.zeros(0, np.int64), *blocks[first:last]])
        first_ids = ids - ids % self._method.together
        to = owner[labels[ids]] if len(owner) else Homes(len(labels), comm.size).of(first_ids)
        order = np.argsort(to, kind="stable")
        position = np.empty(len(ids), np.int64)
        position[order] = np.arange(len(ids))
        outgoing, at = np.empty(len(ids), self._row), 0
        for block, label, outputs in pass_blocks(blocks, self._reader, context, loader):
            rows, at = position[at : at + len(block)], at + len(block)
            outgoing["id"][rows], outgoing["label"][rows] = block, label
            for name, values in self._vectors_of(outputs, label).items():
                outgoing[name][rows] = values
        return comm.exchange(outgoing, np.bincount(to, minlength=comm.size))[0]

    def _vectors_of(self, outputs: dict[str, np.ndarray], label: np.ndarray) -> dict[str, np.ndarray]:
        known = {}
        if "input" in self._method.wants:
            known["input"] = round_rows(outputs["input"])
        if "probability" in self._method.wants:
            known["probability"] = outputs["probability"]
        if "residual" in self._method.wants:
            known["residual"] = round_rows(residuals(outputs["probability"], label))
        return known

    def _groups(self, rows: np.ndarray, judges: np.ndarray | None, rng: Stream) -> Iterator[Group]:
        """Yield the groups of these rows: the classes that are here, or all samples of all ranks."""
        fraction = 0.0 if self._method.nests else getattr(self._method, "fraction", 0.0)
        comm = self._context.world.comm
        if not self._method.by_class:
            n = self._context.homes.n
            judged_by = None if judges is None else _take(judges, np.arange(len(judges)))
            yield Group(_take(rows, np.arange(len(rows))), n, n - int(fraction * n), rng, comm, judged_by)
            return
        for number in np.unique(rows["label"]):
            of_class = _take(rows, np.flatnonzero(rows["label"] == number))
            n = len(of_class)
            judged_by = None if judges is None else _take(judges, np.flatnonzero(judges["label"] == number))
            yield Group(of_class, n, n - int(np.floor(fraction * n)), rng, SerialComm(), judged_by)

    def _bring_home(
        self, found: Sequence[tuple[np.ndarray, np.ndarray, Scores]]
    ) -> tuple[Scores, np.ndarray]:
        """Send scores, places and weights to the home ranks of their samples."""
        homes, comm = self._context.homes, self._context.world.comm
        empty = Scores(np.zeros(0), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool))
        found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), empty), *found]
        columns = {
            "label": np.concatenate([label for _, label, _ in found]),
            "score": np.concatenate([scores.score for *_, scores in found]),
        }
        has = {
            "place": self._method.places != "none",
            "weight": self._method.weighted,
            "filled": self._method.fills,
        }
        for name in (name for name, there in has.items() if there):
            columns[name] = np.concatenate([getattr(scores, name) for *_, scores in found])
        rows = send_home(np.concatenate([ids for ids, *_ in found]), columns, homes, comm)
        return Scores(rows["score"], *(rows.get(name) for name in has)), rows["label"]


def _on_all_ranks(problem: JobError) -> JobError:
    problem.on_all_ranks = True
    return problem


def _cut(ids: np.ndarray, size: int) -> list[np.ndarray]:
    return [ids[start : start + size] for start in range(0, len(ids), size)]


def _take(rows: np.ndarray, index: np.ndarray) -> Vectors:
    index = index[np.argsort(rows["id"][index], kind="stable")]
    columns = [np.ascontiguousarray(rows[name][index]) for name in ("input", "residual", "probability")]
    return Vectors(rows["id"][index], rows["label"][index].astype(np.int64), *columns)


def _blocks(label: np.ndarray, classes: np.ndarray, size: int) -> list[np.ndarray]:
    """Return the ids of these classes, class by class, in blocks."""
    by_label = np.argsort(label, kind="stable")
    ends = np.searchsorted(label[by_label], np.arange(label.max(initial=0) + 2))
    of_class = {number: by_label[ends[number] : ends[number + 1]] for number in range(len(ends) - 1)}
    return [ids for number in classes.tolist() for ids in _cut(of_class.get(number, by_label[:0]), size)]


def _labels_of(source: Dataset, loader: Loader | ShardLoader, context: Context) -> np.ndarray:
    """Return the class of every sample, (N,) int64, from the data set, or by reading it once."""
    label = source.labels()
    if label is not None:
        return np.asarray(label, np.int64)
    comm = context.world.comm
    first, last = Homes(len(source), comm.size).rows(comm.rank)
    batches = loader(plain_micro_batches(first, last, 128), 0, augment=False)
    own = [batch.target.cpu().numpy() for batch in context.heartbeat.along(batches)]
    return np.concatenate(comm.gather(np.concatenate([np.zeros(0, np.int64), *own])))
