"""The ways in which an epoch goes over samples: train, train by steps, sift, look, evaluate.

Each is dealt to all ranks and noted at home.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..core.batch import Batch, MethodState
from ..core.ledger import Homes, Ledger
from ..core.plan import Epoch, Plan
from ..data.loader import plain_micro_batches
from ..order.deal import EpochSchedule, deal
from ..order.home import send_home
from ..selection.batch_level import BatchMethod
from ..training.batch_stats import BatchStats, SampleStatsBuffer
from ..training.segmentation import mean_iou
from .batch_selection import BatchSelection
from .context import Context
from .pass_progress import Resumable


@dataclass(frozen=True)
class TrainResult:
    """What the training stage did. losses: (k,) of this rank's training passes; the counts are over all ranks.

    n_hidden: samples that were not trained.
    """

    losses: np.ndarray
    n_hidden: int
    n_forward: int
    n_backward: int
    steps: int


def train(
    epoch: Epoch,
    plan: Plan,
    micro_batches: EpochSchedule,
    ledger: Ledger,
    method_state: MethodState,
    s: Context,
) -> tuple[Ledger, MethodState, TrainResult]:
    """Train what the plan names."""
    stats_buffer = SampleStatsBuffer(s.observed)
    if isinstance(s.method, BatchMethod) and s.method.clocked_by_trained:
        s.learner.begin_epoch(
            epoch.number,
            plan.lr_scale,
            method_state["trained"][0] / ledger.n_total,
            micro_batches.n / ledger.n_total,
        )
    else:
        s.learner.begin_epoch(epoch.number, plan.lr_scale)
    for batch in _along("train", micro_batches, epoch, True, stats_buffer, s):
        stats_buffer.add(s.learner.step(batch))
    stats = stats_buffer.stats()
    ledger = ledger.observed(send_home(stats, s.homes, s.world.comm), epoch.number)
    if isinstance(s.method, BatchMethod):
        method_state = {
            **s.method.trained(epoch, stats.loss, method_state),
            "trained": method_state["trained"] + micro_batches.n,
        }
    (n_hidden,) = s.everyone.count(plan.train == 0)
    return (
        ledger,
        method_state,
        TrainResult(stats.loss, n_hidden, micro_batches.n, micro_batches.n, micro_batches.steps),
    )


def train_by_steps(
    epoch: Epoch,
    plan: Plan,
    micro_batches: EpochSchedule,
    ledger: Ledger,
    method_state: MethodState,
    s: Context,
) -> tuple[Ledger, MethodState, TrainResult]:
    """Train as many entries as the plan names, drawn step by step, each by what the step before has told."""
    s.learner.begin_epoch(epoch.number, plan.lr_scale)
    stats_buffer = SampleStatsBuffer(s.observed)
    done = s.pass_progress.begin_pass(stats_buffer)
    ledger = (
        ledger.observed(send_home(stats_buffer.stats(), s.homes, s.world.comm), epoch.number)
        if done
        else ledger
    )
    for step in s.progress.bar(range(done, micro_batches.steps), micro_batches.steps, "train"):
        n = (
            step + 1
        ) * micro_batches.n // micro_batches.steps - step * micro_batches.n // micro_batches.steps
        one = s.method.plan_step(epoch, step, n, ledger, s.everyone)
        dealt = deal_passes(one.train, epoch, ledger, s, one.weight)
        before = step * s.global_batch  # a sample drawn again is another copy, with draws of its own
        here = [
            replace(
                micro_batch,
                step=step,
                progress=(step + 0.5) / micro_batches.steps,
                copy=micro_batch.copy + before,
                position=micro_batch.position + before,
            )
            for micro_batch in dealt
        ]
        news = SampleStatsBuffer(s.observed)
        for batch in s.heartbeat.along(s.train(here, epoch.number, augment=True)):
            seen = s.learner.step(batch)
            for noted in (stats_buffer, news):
                noted.add(seen)
        ledger = ledger.observed(send_home(news.stats(), s.homes, s.world.comm), epoch.number)
        s.pass_progress.step_done(step)
    (n_hidden,) = s.everyone.count(ledger.seen_epoch != epoch.number)
    return (
        ledger,
        method_state,
        TrainResult(
            stats_buffer.stats().loss, n_hidden, micro_batches.n, micro_batches.n, micro_batches.steps
        ),
    )


def train_selected(
    epoch: Epoch,
    plan: Plan,
    micro_batches: EpochSchedule,
    ledger: Ledger,
    method_state: MethodState,
    s: Context,
) -> tuple[Ledger, MethodState, TrainResult]:
    """Train what a batch-level method chooses of the candidates that the plan names."""
    start = method_state["trained"][0] / ledger.n_total if s.method.clocked_by_trained else None
    s.learner.begin_epoch(epoch.number, plan.lr_scale, start)
    batch_selection = BatchSelection(epoch, micro_batches.n, method_state, s)
    # A graph cannot be put down.
    batch_selection.train(
        _along("train", micro_batches, epoch, True, batch_selection, s, may_stop=not s.method.keeps_graph)
    )
    looked, trained = batch_selection.looked.stats(), batch_selection.trained.stats()
    if "selection_loss" in ledger.extra:
        looked = looked.with_extra(selection_loss=looked.loss)
    for stats in (looked, trained):  # in this order: the training pass is the later one
        ledger = ledger.observed(send_home(stats, s.homes, s.world.comm), epoch.number)
    n_forward, n_distinct = s.world.comm.sum(
        np.array([batch_selection.n_forward, batch_selection.n_distinct])
    ).tolist()
    method_state = {
        **batch_selection.method_state,
        "trained": method_state["trained"] + batch_selection.n_trained,
    }
    losses = trained.loss if len(trained) else looked.loss
    return (
        ledger,
        method_state,
        TrainResult(
            losses, ledger.n_total - n_distinct, n_forward, batch_selection.n_trained, batch_selection.steps
        ),
    )


def forward_only(
    rows: np.ndarray, mode: str, augment: bool, epoch: Epoch, ledger: Ledger, s: Context
) -> Ledger:
    """Pass the marked rows of all ranks' ledgers forward, dealt evenly over ranks; return the ledger that knows."""
    stats_buffer = SampleStatsBuffer(s.observed)
    micro_batches = deal_passes(rows, epoch, ledger, s)
    for batch in _along("look", micro_batches, epoch, augment, stats_buffer, s):
        stats_buffer.add(s.learner.forward_only(batch, mode)[0])
    if mode == "train":
        s.learner.average_statistics()
    return ledger.observed(send_home(stats_buffer.stats(), s.homes, s.world.comm), epoch.number)


def evaluate(s: Context) -> dict[str, float]:
    """Return mean loss and accuracy, or IoU, over the validation set: each rank its part, no sample twice."""
    homes, size = Homes(len(s.validation.source), s.world.size), max(1, s.global_batch // s.world.size)
    micro_batches = plain_micro_batches(*homes.rows(s.world.rank), size)
    n_most = -(-int(np.diff(homes.starts).max()) // size)  # batches of the rank that has most
    batches = s.pass_progress.heeding(s.validation(micro_batches, epoch=0, augment=False), n_most)
    looked = s.learner.evaluate(s.heartbeat.along(batches))
    stats_buffer = SampleStatsBuffer()
    for seen in looked:
        stats_buffer.add(seen)
    stats = stats_buffer.stats()
    loss = {"val_loss": s.everyone.mean(stats.loss).value}
    return loss | (
        _iou(looked, s) if s.learner.has_masks else {"val_accuracy": s.everyone.mean(stats.correct).value}
    )


def _iou(looked: list[BatchStats], s: Context) -> dict[str, float]:
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


def deal_passes(
    times: np.ndarray,
    epoch: Epoch,
    ledger: Ledger,
    s: Context,
    weight: np.ndarray | None = None,
    thins: bool = False,
) -> EpochSchedule:
    """Deal this many passes of each row over ranks and batches; candidates in batches of the method's own size."""
    global_batch, accumulate = (
        (s.method.candidates(s.global_batch), 1) if thins else (s.global_batch, s.accumulate)
    )
    if s.shards is not None:
        return s.shards.deal(ledger, times, epoch, global_batch, accumulate, weight)
    return deal(ledger.rows, times, epoch, s.world.comm, global_batch, accumulate, weight)


def _along(
    label: str,
    micro_batches: EpochSchedule,
    epoch: Epoch,
    augment: bool,
    finds: Resumable,
    s: Context,
    may_stop: bool = True,
) -> Iterator[Batch]:
    """Yield the batches of a pass that are still to be done, under a bar."""
    batches = s.pass_progress.along(
        micro_batches, lambda rest: s.train(rest, epoch.number, augment), finds, may_stop
    )
    return s.progress.bar(s.heartbeat.along(batches), len(micro_batches), label)
