"""One epoch, told in order. The only file that sees all stages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .data.loader import Loader, plain_turns
from .ledger import Homes, Ledger
from .order.deal import Turns, deal
from .order.home import send_home
from .plan import Epoch, Plan
from .record.clock import Clock
from .record.progress import Progress
from .selection.everyone import Everyone
from .selection.method import OBSERVED, Method
from .training.learner import Learner
from .training.observe import NoteBook
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


def run_epoch(epoch: Epoch, ledger: Ledger, stages: Stages, clock: Clock) -> tuple[Ledger, Plan, dict]:
    """Run one epoch on this rank; return the ledger after it, its plan, and its line of metrics (without seconds)."""
    s, learner = stages, stages.learner

    with clock("plan"):
        if s.method.looks_first(epoch):
            ledger = look(np.ones(len(ledger), bool), "eval", True, epoch, ledger, s)
        plan = s.method.plan(epoch, ledger, s.everyone)
        turns = _deal(plan.train, epoch, ledger, s, plan.weight)

    with clock("train"):
        book = NoteBook(_extra(s.method))
        learner.begin_epoch(epoch.number, plan.lr_scale)
        for batch in s.progress.bar(s.train(turns, epoch.number, augment=True), len(turns), "train"):
            book.add(learner.step(batch))
        learner.average_statistics()
        trained = book.notes()
        after = ledger.observed(send_home(trained, s.homes, s.world.comm), epoch.number)

    with clock("refresh"):
        if plan.refresh is not None:
            after = look(plan.refresh, plan.refresh_mode, plan.refresh_augment, epoch, after, s)

    with clock("evaluate"):
        loss, accuracy = evaluate(s)

    after = after.with_columns(s.method.remember(epoch, after))
    return after, plan, _line(epoch, plan, turns, trained.loss, after, loss, accuracy, s)


def look(rows: np.ndarray, mode: str, augment: bool, epoch: Epoch, ledger: Ledger, s: Stages) -> Ledger:
    """Pass the marked rows of all ranks' ledgers forward, dealt evenly over ranks; return the ledger that knows."""
    book = NoteBook(_extra(s.method))
    turns = _deal(rows, epoch, ledger, s)
    for batch in s.progress.bar(s.train(turns, epoch.number, augment), len(turns), "look"):
        book.add(s.learner.look(batch, mode))
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


def _deal(times: np.ndarray, epoch: Epoch, ledger: Ledger, s: Stages, weight: np.ndarray | None = None) -> Turns:
    return deal(ledger.id, times, epoch, s.world.comm, s.global_batch, s.accumulate, weight)


def _extra(method: Method) -> list[str]:
    return [name for name in method.columns if name in OBSERVED]


def _line(
    epoch: Epoch, plan: Plan, turns: Turns, losses: np.ndarray, after: Ledger, loss: float, accuracy: float, s: Stages
) -> dict:
    """Return what the run's metrics say of this epoch."""
    refreshed = np.zeros(len(after), bool) if plan.refresh is None else plan.refresh
    noted = after.seen_epoch == epoch.number
    n_hidden, n_refreshed, n_nan = s.everyone.count(plan.train == 0, refreshed, noted & np.isnan(after.loss))
    histogram = s.everyone.histogram(after.loss)
    return {
        "epoch": epoch.number,
        "train_loss": s.everyone.mean(losses).value,
        "val_loss": loss,
        "val_accuracy": accuracy,
        "n_samples": after.n_total,
        "n_candidates": plan.n_candidates,
        "n_moved_back": plan.n_moved_back,
        "n_hidden": n_hidden,
        "hidden_fraction": n_hidden / after.n_total,
        "max_fraction": plan.max_fraction,
        "n_forward": turns.n + n_refreshed + (after.n_total if s.method.looks_first(epoch) else 0),
        "n_backward": turns.n,
        "n_nan": n_nan,
        "lr": s.learner.lr,
        "lr_scale": plan.lr_scale,
        "steps": turns.steps,
        "order_hash": f"{turns.order_hash:016x}",
        "loss_histogram": {"edges": histogram.edges.tolist(), "counts": histogram.counts.tolist()},
    }
