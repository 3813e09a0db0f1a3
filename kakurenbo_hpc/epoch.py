"""One epoch, told in order. The only file that sees all stages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .batch import Memory
from .data.loader import Loader, plain_turns
from .ledger import Homes, Ledger
from .order.deal import Turns, deal
from .order.home import send_home
from .plan import Epoch, Plan
from .record.clock import Clock
from .record.progress import Progress
from .selection.batch_level import BatchMethod
from .selection.everyone import Everyone
from .selection.method import OBSERVED, Method
from .training.learner import Learner
from .training.observe import NoteBook
from .training.sieve import Sieve
from .world.world import World


@dataclass(frozen=True)
class Stages:
    """Everything an epoch passes through."""

    world: World
    everyone: Everyone
    method: Method
    homes: Homes
    train: Loader
    validation: Loader
    learner: Learner
    progress: Progress
    global_batch: int
    accumulate: int


@dataclass(frozen=True)
class Trained:
    """What the training stage did. losses: (k,) of this rank's training passes; the counts are over all ranks.

    n_hidden: samples that were not trained.
    """

    losses: np.ndarray
    n_hidden: int
    n_forward: int
    n_backward: int
    steps: int


def run_epoch(
    epoch: Epoch, ledger: Ledger, memory: Memory, stages: Stages, clock: Clock
) -> tuple[Ledger, Memory, Plan, dict]:
    """Run one epoch on this rank; return ledger and memory after it, its plan, and its line of metrics (without seconds)."""
    s = stages
    with clock("plan"):
        if s.method.looks_first(epoch):
            ledger = look(np.ones(len(ledger), bool), "eval", True, epoch, ledger, s)
            ledger = ledger.with_columns(s.method.looked(epoch, ledger))
        plan = s.method.plan(epoch, ledger, s.everyone)
        thins = isinstance(s.method, BatchMethod) and s.method.thins(epoch)
        turns = deal_turns(plan.train, epoch, ledger, s, plan.weight, thins)

    with clock("train"):
        after, memory, trained = (sift if thins else train)(epoch, plan, turns, ledger, memory, s)
        s.learner.average_statistics()

    with clock("refresh"):
        if plan.refresh is not None:
            after = look(plan.refresh, plan.refresh_mode, plan.refresh_augment, epoch, after, s)
        after = after.with_columns(s.method.remember(epoch, after))

    with clock("evaluate"):
        loss, accuracy = evaluate(s)

    return after, memory, plan, _line(epoch, plan, turns, trained, after, loss, accuracy, s)


def train(epoch: Epoch, plan: Plan, turns: Turns, ledger: Ledger, memory: Memory, s: Stages) -> tuple[Ledger, Memory, Trained]:
    """Train what the plan names."""
    book = NoteBook(_observed(s.method))
    if isinstance(s.method, BatchMethod) and s.method.clocked_by_trained:
        s.learner.begin_epoch(epoch.number, plan.lr_scale, memory["trained"][0] / ledger.n_total, turns.n / ledger.n_total)
    else:
        s.learner.begin_epoch(epoch.number, plan.lr_scale)
    for batch in s.progress.bar(s.train(turns, epoch.number, augment=True), len(turns), "train"):
        book.add(s.learner.step(batch))
    notes = book.notes()
    ledger = ledger.observed(send_home(notes, s.homes, s.world.comm), epoch.number)
    if isinstance(s.method, BatchMethod):
        memory = {**s.method.primed(notes.loss, memory), "trained": memory["trained"] + turns.n}
    (n_hidden,) = s.everyone.count(plan.train == 0)
    return ledger, memory, Trained(notes.loss, n_hidden, turns.n, turns.n, turns.steps)


def sift(epoch: Epoch, plan: Plan, turns: Turns, ledger: Ledger, memory: Memory, s: Stages) -> tuple[Ledger, Memory, Trained]:
    """Train what a batch-level method chooses of the candidates that the plan names."""
    start = memory["trained"][0] / ledger.n_total if s.method.clocked_by_trained else None
    s.learner.begin_epoch(epoch.number, plan.lr_scale, start)
    sieve = Sieve(
        s.method, memory, s.learner, s.everyone, s.world.comm, epoch, s.global_batch, s.accumulate, turns.n, ledger.n_total,
        _observed(s.method),
    )
    sieve.train(s.progress.bar(s.train(turns, epoch.number, augment=True), len(turns), "train"))
    looked, trained = sieve.looked.notes(), sieve.trained.notes()
    if "selection_loss" in ledger.extra:
        looked = looked.with_extra(selection_loss=looked.loss)
    for notes in (looked, trained):  # in this order: the training pass is the later one
        ledger = ledger.observed(send_home(notes, s.homes, s.world.comm), epoch.number)
    n_forward, n_distinct = s.world.comm.sum(np.array([sieve.n_forward, sieve.n_distinct])).tolist()
    memory = {**sieve.memory, "trained": memory["trained"] + sieve.n_trained}
    losses = trained.loss if len(trained) else looked.loss
    return ledger, memory, Trained(losses, ledger.n_total - n_distinct, n_forward, sieve.n_trained, sieve.steps)


def look(rows: np.ndarray, mode: str, augment: bool, epoch: Epoch, ledger: Ledger, s: Stages) -> Ledger:
    """Pass the marked rows of all ranks' ledgers forward, dealt evenly over ranks; return the ledger that knows."""
    book = NoteBook(_observed(s.method))
    turns = deal_turns(rows, epoch, ledger, s)
    for batch in s.progress.bar(s.train(turns, epoch.number, augment), len(turns), "look"):
        book.add(s.learner.look(batch, mode)[0])
    if mode == "train":
        s.learner.average_statistics()
    return ledger.observed(send_home(book.notes(), s.homes, s.world.comm), epoch.number)


def evaluate(s: Stages) -> tuple[float, float]:
    """Return mean loss and accuracy over the validation set: each rank its part, no sample twice."""
    first, last = Homes(len(s.validation.source), s.world.size).rows(s.world.rank)
    turns = plain_turns(first, last, max(1, s.global_batch // s.world.size))
    book = NoteBook()
    for seen in s.learner.evaluate(s.validation(turns, epoch=0, augment=False)):
        book.add(seen)
    notes = book.notes()
    return s.everyone.mean(notes.loss).value, s.everyone.mean(notes.correct).value


def deal_turns(
    times: np.ndarray, epoch: Epoch, ledger: Ledger, s: Stages, weight: np.ndarray | None = None, thins: bool = False
) -> Turns:
    """Deal this many passes of each row over ranks and batches; candidates in batches of the method's own size."""
    if thins:
        return deal(ledger.id, times, epoch, s.world.comm, s.method.candidates(s.global_batch), 1, weight)
    return deal(ledger.id, times, epoch, s.world.comm, s.global_batch, s.accumulate, weight)


def _observed(method: Method) -> list[str]:
    return [name for name in method.columns if name in OBSERVED]


def _line(
    epoch: Epoch, plan: Plan, turns: Turns, trained: Trained, after: Ledger, loss: float, accuracy: float, s: Stages
) -> dict:
    """Return what the run's metrics say of this epoch."""
    refreshed = np.zeros(len(after), bool) if plan.refresh is None else plan.refresh
    noted = after.seen_epoch == epoch.number
    n_refreshed, n_nan = s.everyone.count(refreshed, noted & np.isnan(after.loss))
    n_first = after.n_total if s.method.looks_first(epoch) else 0
    histogram = s.everyone.histogram(after.loss)
    return {
        "epoch": epoch.number,
        "train_loss": s.everyone.mean(trained.losses).value,
        "val_loss": loss,
        "val_accuracy": accuracy,
        "n_samples": after.n_total,
        "n_candidates": plan.n_candidates,
        "n_moved_back": plan.n_moved_back,
        "n_hidden": trained.n_hidden,
        "hidden_fraction": trained.n_hidden / after.n_total,
        "max_fraction": plan.max_fraction,
        "n_forward": n_first + trained.n_forward + n_refreshed,
        "n_backward": trained.n_backward,
        "n_nan": n_nan,
        "lr": s.learner.lr,
        "lr_scale": plan.lr_scale,
        "steps": trained.steps,
        "order_hash": f"{turns.order_hash:016x}",
        "loss_histogram": {"edges": histogram.edges.tolist(), "counts": histogram.counts.tolist()},
    }
