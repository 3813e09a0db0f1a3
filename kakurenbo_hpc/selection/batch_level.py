"""Batch-level methods: `BatchMethod` selects from candidate batches after a forward pass."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from ..core.batch import Candidates, MethodState
from ..core.plan import Epoch
from .global_stats import GlobalStats
from .method import Level, Method


@dataclass(frozen=True)
class Choice:
    """The candidates to train.

    Attributes:
        rows: (m,) int64, rows of the candidate batch; repeats are allowed.
        weight: (m,) float32, multiplies their losses.
    """

    rows: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class SelectionPass:
    """The forward pass over candidates.

    Attributes:
        global_batch: candidates at a time, of all ranks together; each rank passes its own forward in
            ``training.accumulate`` parts.
        precision: "same" as in training, "bf16" or "fp16".
        reuse_graph: run it in train mode and keep its autograd graph, so that candidates that are trained
            before the next optimizer step need no second forward pass. Then a rank passes them in one part.
        loss_column: the ledger column that keeps the losses of this pass, if the method declares one.
        mode: of the network, "eval" or "train"; train moves BatchNorm's statistics.
        forward: whether there is a pass at all; without one, the losses of candidates are NaN.
        queues: queue what is selected until every rank has a full batch. Otherwise each candidate batch makes
            one step on what is selected from it, or none where no rank selects anything.
        pipeline: pass the next candidates forward before the step that the last ones made due.
        only_full: drop what is left in the queues at the end of an epoch, instead of a last smaller step.
        columns: ledger columns of the method that come with the candidates.
    """

    global_batch: int
    precision: str = "same"
    reuse_graph: bool = False
    loss_column: str | None = None
    mode: str = "eval"
    forward: bool = True
    queues: bool = True
    pipeline: bool = False
    only_full: bool = False
    columns: tuple[str, ...] = ()


class BatchMethod(Method):
    """A method that selects from each candidate batch, by a forward pass that was just made.

    The epoch's plan names the candidates. All ranks select together, each from its own part of a candidate
    batch; what they select is queued, and all take a step when every rank's queue holds a batch. Results
    are the same at the same number of ranks. An epoch in detail::

        for each candidate batch, of `selection_pass`.global_batch candidates:
            if `selects_next`(state):
                forward pass over the batch
                choice, state = `select`(epoch, candidates, state, everyone)
                queue the choice
            else:
                queue the whole batch
            for each step that is due (without a queue: one, unless nothing was selected on any rank):
                train; if it followed no selection: state = `on_step`(batch, state, everyone)

    In an epoch whose `selection_level` is "epoch", what the plan names is trained. After such an epoch,
    state = `on_epoch_trained`(epoch, losses, state).
    """

    def selection_level(self, epoch: Epoch) -> Level:
        """Return "batch"; a method whose plan already decides some epochs returns "epoch" for these."""
        return "batch"

    def selection_pass(self, global_batch: int) -> SelectionPass:
        """Return how candidates are passed forward in a run with this global batch."""
        return SelectionPass(global_batch)

    def selects_next(self, state: MethodState) -> bool:
        """Return whether the next candidate batch is selected from; otherwise all of it is trained."""
        return True

    @abstractmethod
    def select(
        self, epoch: Epoch, candidates: Candidates, state: MethodState, everyone: GlobalStats
    ) -> tuple[Choice, MethodState]:
        """Choose from this rank's part of one candidate batch; return the choice and the state after it."""

    def on_step(self, batch: Candidates, state: MethodState, everyone: GlobalStats) -> MethodState:
        """Return the state after a step that followed no selection; batch: this rank's part of it."""
        return state

    def on_epoch_trained(self, epoch: Epoch, losses: np.ndarray, state: MethodState) -> MethodState:
        """Return the state after an epoch without selection passes.

        Args:
            epoch: that was trained.
            losses: (k,) float32, of this rank's training passes, in order.
            state: before the epoch.
        """
        return state


def keeps_graphs(method: Method, global_batch: int) -> bool:
    """Return whether a method keeps the autograd graphs of candidates in a run with this global batch."""
    return isinstance(method, BatchMethod) and method.selection_pass(global_batch).reuse_graph
