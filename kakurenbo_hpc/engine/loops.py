"""The ways in which an epoch goes over samples: train, train by steps, sift, look, evaluate.

Each is dealt to all ranks and noted at home.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..core.batch import Batch, Memory
from ..core.ledger import Homes, Ledger
from ..core.plan import Epoch, Plan
from ..data.loader import plain_turns
from ..order.deal import Turns, deal
from ..order.home import send_home
from ..selection.batch_level import BatchMethod
from ..training.batch_stats import NoteBook, Seen
from ..training.segmentation import mean_iou
from .batch_selection import Sieve
from .context import Stages
from .pass_progress import Finds


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


def train(
    epoch: Epoch, plan: Plan, turns: Turns, ledger: Ledger, memory: Memory, s: Stages
) -> tuple[Ledger, Memory, Trained]:
    """Train what the plan names."""
    book = NoteBook(s.observed)
    if isinstance(s.method, BatchMethod) and s.method.clocked_by_trained:
        s.learner.begin_epoch(
            epoch.number, plan.lr_scale, memory["trained"][0] / ledger.n_total, turns.n / ledger.n_total
        )
    else:
        s.learner.begin_epoch(epoch.number, plan.lr_scale)
    for batch in _along("train", turns, epoch, True, book, s):
        book.add(s.learner.step(batch))
    notes = book.notes()
    ledger = ledger.observed(send_home(notes, s.homes, s.world.comm), epoch.number)
    if isinstance(s.method, BatchMethod):
        memory = {**s.method.trained(epoch, notes.loss, memory), "trained": memory["trained"] + turns.n}
    (n_hidden,) = s.everyone.count(plan.train == 0)
    return ledger, memory, Trained(notes.loss, n_hidden, turns.n, turns.n, turns.steps)


def train_by_steps(
    epoch: Epoch, plan: Plan, turns: Turns, ledger: Ledger, memory: Memory, s: Stages
) -> tuple[Ledger, Memory, Trained]:
    """Train as many entries as the plan names, drawn step by step, each by what the step before has told."""
    s.learner.begin_epoch(epoch.number, plan.lr_scale)
    book = NoteBook(s.observed)
    done = s.trail.begin_pass(book)
    ledger = ledger.observed(send_home(book.notes(), s.homes, s.world.comm), epoch.number) if done else ledger
    for step in s.progress.bar(range(done, turns.steps), turns.steps, "train"):
        n = (step + 1) * turns.n // turns.steps - step * turns.n // turns.steps
        one = s.method.plan_step(epoch, step, n, ledger, s.everyone)
        dealt = deal_turns(one.train, epoch, ledger, s, one.weight)
        before = step * s.global_batch  # a sample drawn again is another copy, with draws of its own
        here = [
            replace(
                turn,
                step=step,
                progress=(step + 0.5) / turns.steps,
                copy=turn.copy + before,
                position=turn.position + before,
            )
            for turn in dealt
        ]
        news = NoteBook(s.observed)
        for batch in s.heartbeat.along(s.train(here, epoch.number, augment=True)):
            seen = s.learner.step(batch)
            for noted in (book, news):
                noted.add(seen)
        ledger = ledger.observed(send_home(news.notes(), s.homes, s.world.comm), epoch.number)
        s.trail.step_done(step)
    (n_hidden,) = s.everyone.count(ledger.seen_epoch != epoch.number)
    return ledger, memory, Trained(book.notes().loss, n_hidden, turns.n, turns.n, turns.steps)


def sift(
    epoch: Epoch, plan: Plan, turns: Turns, ledger: Ledger, memory: Memory, s: Stages
) -> tuple[Ledger, Memory, Trained]:
    """Train what a batch-level method chooses of the candidates that the plan names."""
    start = memory["trained"][0] / ledger.n_total if s.method.clocked_by_trained else None
    s.learner.begin_epoch(epoch.number, plan.lr_scale, start)
    sieve = Sieve(epoch, turns.n, memory, s)
    # A graph cannot be put down.
    sieve.train(_along("train", turns, epoch, True, sieve, s, may_stop=not s.method.keeps_graph))
    looked, trained = sieve.looked.notes(), sieve.trained.notes()
    if "selection_loss" in ledger.extra:
        looked = looked.with_extra(selection_loss=looked.loss)
    for notes in (looked, trained):  # in this order: the training pass is the later one
        ledger = ledger.observed(send_home(notes, s.homes, s.world.comm), epoch.number)
    n_forward, n_distinct = s.world.comm.sum(np.array([sieve.n_forward, sieve.n_distinct])).tolist()
    memory = {**sieve.memory, "trained": memory["trained"] + sieve.n_trained}
    losses = trained.loss if len(trained) else looked.loss
    return (
        ledger,
        memory,
        Trained(losses, ledger.n_total - n_distinct, n_forward, sieve.n_trained, sieve.steps),
    )


def look(rows: np.ndarray, mode: str, augment: bool, epoch: Epoch, ledger: Ledger, s: Stages) -> Ledger:
    """Pass the marked rows of all ranks' ledgers forward, dealt evenly over ranks; return the ledger that knows."""
    book = NoteBook(s.observed)
    turns = deal_turns(rows, epoch, ledger, s)
    for batch in _along("look", turns, epoch, augment, book, s):
        book.add(s.learner.look(batch, mode)[0])
    if mode == "train":
        s.learner.average_statistics()
    return ledger.observed(send_home(book.notes(), s.homes, s.world.comm), epoch.number)


def evaluate(s: Stages) -> dict[str, float]:
    """Return mean loss and accuracy, or IoU, over the validation set: each rank its part, no sample twice."""
    homes, size = Homes(len(s.validation.source), s.world.size), max(1, s.global_batch // s.world.size)
    turns = plain_turns(*homes.rows(s.world.rank), size)
    n_most = -(-int(np.diff(homes.starts).max()) // size)  # batches of the rank that has most
    batches = s.trail.heeding(s.validation(turns, epoch=0, augment=False), n_most)
    looked = s.learner.evaluate(s.heartbeat.along(batches))
    book = NoteBook()
    for seen in looked:
        book.add(seen)
    notes = book.notes()
    loss = {"val_loss": s.everyone.mean(notes.loss).value}
    return loss | (
        _iou(looked, s) if s.learner.has_masks else {"val_accuracy": s.everyone.mean(notes.correct).value}
    )


def _iou(looked: list[Seen], s: Stages) -> dict[str, float]:
    """Return the mean over images of each one's mean IoU, and the mean IoU of all images as one."""
    none = np.zeros((0, s.learner.n_classes), np.int64)  # a rank may have no image
    counts = [
        np.concatenate([none, *(seen.columns[name].cpu().numpy() for seen in looked)])
        for name in ("intersection", "union")
    ]
    whole = s.world.comm.sum(np.stack([count.sum(axis=0, keepdims=True) for count in counts]))
    return {
        "val_iou": s.everyone.mean(mean_iou(*counts).astype(np.float32)).value,
        "val_iou_corpus": float(mean_iou(*whole)[0]),
    }


def deal_turns(
    times: np.ndarray,
    epoch: Epoch,
    ledger: Ledger,
    s: Stages,
    weight: np.ndarray | None = None,
    thins: bool = False,
) -> Turns:
    """Deal this many passes of each row over ranks and batches; candidates in batches of the method's own size."""
    global_batch, accumulate = (
        (s.method.candidates(s.global_batch), 1) if thins else (s.global_batch, s.accumulate)
    )
    if s.shards is not None:
        return s.shards.deal(ledger, times, epoch, global_batch, accumulate, weight)
    return deal(ledger.rows, times, epoch, s.world.comm, global_batch, accumulate, weight)


def _along(
    label: str, turns: Turns, epoch: Epoch, augment: bool, finds: Finds, s: Stages, may_stop: bool = True
) -> Iterator[Batch]:
    """Yield the batches of a pass that are still to be done, under a bar."""
    batches = s.trail.along(turns, lambda rest: s.train(rest, epoch.number, augment), finds, may_stop)
    return s.progress.bar(s.heartbeat.along(batches), len(turns), label)
