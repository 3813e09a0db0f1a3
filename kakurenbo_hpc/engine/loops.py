"""The passes of an epoch: training by epoch, step or batch; the scoring and refresh pass; evaluation.

Each pass is dealt to all ranks, and its statistics are brought home to the ledgers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import numpy as np

from ..core.batch import Batch, MethodState
from ..core.ledger import Homes, Ledger
from ..core.plan import Epoch, Plan
from ..core.sample_stats import SampleStats
from ..data.loader import plain_micro_batches
from ..order.deal import EpochSchedule, deal
from ..order.home import bring_home, fetch_columns
from ..selection.batch_level import BatchMethod
from ..selection.method import Level, StepMethod
from ..training.batch_stats import BatchStats, SampleStatsBuffer
from ..training.gradient_norm import gradient_norms
from ..training.learner import TEST_COLUMNS, Learner
from ..training.segmentation import mean_iou
from .batch_selection import BatchSelection
from .context import Context
from .pass_progress import Resumable


@dataclass(frozen=True)
class TrainResult:
    """Results of the training stage; all counts are over all ranks.

    Attributes:
        losses: (k,) float32, of this rank's training passes, in order.
        n_hidden: samples that were not trained.
        n_forward: forward passes of samples, selection passes included.
        n_backward: backward passes of samples.
        steps: optimizer steps.
        n_selection: forward passes of these that only selected.
        staleness: mean number of steps between a trained sample's selection pass and its training; None where
            there was no such pass.
    """

    losses: np.ndarray
    n_hidden: int
    n_forward: int
    n_backward: int
    steps: int
    n_selection: int = 0
    staleness: float | None = None


def train(
    epoch: Epoch,
    plan: Plan,
    schedule: EpochSchedule,
    ledger: Ledger,
    method_state: MethodState,
    context: Context,
) -> tuple[Ledger, MethodState, TrainResult]:
    """Train what the plan names."""
    _begin_epoch(epoch, plan, method_state, context, schedule.n)
    stats_buffer = SampleStatsBuffer(context.method.forward_columns)
    for batch in _batches_of("train", schedule, epoch, True, stats_buffer, context):
        if batch.micro_batch.begins:
            context.pass_progress.before_train_step(batch.micro_batch.step)
        stats_buffer.add(context.learner.step(batch))
    stats = stats_buffer.stats()
    ledger = _bring_home(stats, ledger, epoch, context)
    (n_hidden,) = context.everyone.count(plan.train == 0)
    result = TrainResult(stats.loss, n_hidden, schedule.n, schedule.n, schedule.steps)
    method_state = _count_trained(method_state, schedule.n)
    if method_state:  # which only batch-level methods have
        method_state = cast(BatchMethod, context.method).on_epoch_trained(epoch, stats.loss, method_state)
    return ledger, method_state, result


def train_by_steps(
    epoch: Epoch,
    plan: Plan,
    schedule: EpochSchedule,
    ledger: Ledger,
    method_state: MethodState,
    context: Context,
) -> tuple[Ledger, MethodState, TrainResult]:
    """Train as many entries as the schedule has, drawn for each step by the ledger after the step before."""
    method, n, steps = cast(StepMethod, context.method), schedule.n, schedule.steps
    context.learner.begin_epoch(epoch.number, plan.lr_scale)
    stats_buffer = SampleStatsBuffer(context.method.forward_columns)
    n_done = context.pass_progress.begin_pass(stats_buffer)
    if n_done:
        ledger = _bring_home(stats_buffer.stats(), ledger, epoch, context)
    for step in context.console.bar(range(n_done, steps), steps, "train"):
        context.pass_progress.before_train_step(step)
        n_step = (step + 1) * n // steps - step * n // steps
        step_plan = method.plan_step(epoch, step, n_step, ledger, context.everyone)
        dealt = deal_passes(step_plan.train, epoch, ledger, context, step_plan.weight)
        offset = step * context.global_batch  # a sample drawn again is another copy, with draws of its own
        micro_batches = [
            replace(
                micro_batch,
                step=step,
                progress=(step + 0.5) / steps,
                copy=micro_batch.copy + offset,
                position=micro_batch.position + offset,
            )
            for micro_batch in dealt
        ]
        step_buffer = SampleStatsBuffer(context.method.forward_columns)
        batches = context.learner.parts.wait(context.train(micro_batches, epoch.number, augment=True))
        for batch in context.heartbeat.along(batches):
            batch_stats = context.learner.step(batch)
            stats_buffer.add(batch_stats)
            step_buffer.add(batch_stats)
        ledger = _bring_home(step_buffer.stats(), ledger, epoch, context)
        context.pass_progress.step_done(step)
    (n_hidden,) = context.everyone.count(ledger.seen_epoch != epoch.number)
    return ledger, method_state, TrainResult(stats_buffer.stats().loss, n_hidden, n, n, steps)


def train_selected(
    epoch: Epoch,
    plan: Plan,
    schedule: EpochSchedule,
    ledger: Ledger,
    method_state: MethodState,
    context: Context,
) -> tuple[Ledger, MethodState, TrainResult]:
    """Train what a batch-level method selects from the candidates that the plan names."""
    _begin_epoch(epoch, plan, method_state, context)
    selection_pass = cast(BatchMethod, context.method).selection_pass(context.global_batch)
    selection = BatchSelection(
        epoch, schedule.n, method_state, context, _candidate_columns(schedule, ledger, context)
    )
    # Autograd graphs cannot be saved, so with them the epoch cannot stop between steps.
    may_stop = not selection_pass.reuse_graph
    selection.train(_batches_of("train", schedule, epoch, True, selection, context, may_stop))
    candidates, trained = selection.candidate_stats.stats(), selection.trained_stats.stats()
    if selection_pass.loss_column:
        candidates = candidates.with_extra(**{selection_pass.loss_column: candidates.loss})
    for stats in (candidates, trained):  # in this order: the training pass is the later one
        ledger = _bring_home(stats, ledger, epoch, context)
    n_forward, n_distinct, n_stale_steps = context.world.comm.sum(
        np.array([selection.n_forward, selection.n_distinct, selection.n_stale_steps])
    ).tolist()
    losses = trained.loss if len(trained) else candidates.loss
    n_hidden = ledger.n_total - n_distinct
    result = TrainResult(
        losses,
        n_hidden,
        n_forward,
        selection.n_trained,
        selection.steps,
        n_forward - selection.n_trained,
        n_stale_steps / max(1, selection.n_trained),
    )
    return ledger, _count_trained(selection.method_state, selection.n_trained), result


TRAIN_LOOPS: dict[Level, Callable[..., tuple[Ledger, MethodState, TrainResult]]] = {
    "epoch": train,
    "step": train_by_steps,
    "batch": train_selected,
}


def score_all(epoch: Epoch, ledger: Ledger, context: Context) -> Ledger:
    """Pass all samples forward, before the epoch is planned."""
    forward = (
        partial(pass_with_gradient_norms, context.learner) if context.method.needs_full_gradient else None
    )
    return forward_pass(np.ones(len(ledger), bool), "eval", True, epoch, ledger, context, forward)


def pass_with_gradient_norms(learner: Learner, batch: Batch, mode: str) -> BatchStats:
    """Pass a batch forward; grad_norm is that of the gradient in all parameters, not in the last layer."""
    batch_stats, _ = learner.forward_only(batch, mode)
    norms = gradient_norms(learner.model, learner.criterion, batch.input, batch.target)
    return replace(batch_stats, columns={**batch_stats.columns, "grad_norm": norms})


def refresh(plan: Plan, epoch: Epoch, ledger: Ledger, context: Context) -> Ledger:
    """Pass the samples forward that the plan wants refreshed."""
    assert plan.refresh is not None
    return forward_pass(plan.refresh, plan.refresh_mode, plan.refresh_augment, epoch, ledger, context)


def forward_pass(
    rows: np.ndarray,
    mode: str,
    augment: bool,
    epoch: Epoch,
    ledger: Ledger,
    context: Context,
    forward: Callable[[Batch, str], BatchStats] | None = None,
) -> Ledger:
    """Pass samples forward without training, as the scoring and the refresh pass do.

    Args:
        rows: (S,) bool, the rows of this rank's ledger to pass; dealt evenly over ranks.
        mode: "eval" or "train".
        augment: whether under the training augmentation.
        epoch: whose order and draws these are.
        ledger: the rows of this rank.
        context: of the run.
        forward: passes one batch in this mode; the learner's ``forward_only`` if not given.

    Returns:
        The ledger with the statistics of this pass.
    """
    forward = forward or (lambda batch, mode: context.learner.forward_only(batch, mode)[0])
    stats_buffer = SampleStatsBuffer(context.method.forward_columns)
    schedule = deal_passes(rows, epoch, ledger, context)
    for batch in _batches_of("look", schedule, epoch, augment, stats_buffer, context):
        stats_buffer.add(forward(batch, mode))
    if mode == "train":
        context.learner.average_statistics()
    return _bring_home(stats_buffer.stats(), ledger, epoch, context)


def evaluate(context: Context, may_stop: bool = True) -> tuple[dict[str, float], SampleStats]:
    """Validate: each rank its part, no sample twice.

    Images that differ in size are passed one by one: padded to one size, they would be segmented otherwise
    near their edges, and by networks that look at the whole image everywhere.

    Args:
        context: of the run.
        may_stop: whether a run that is asked to stop leaves between two batches.

    Returns:
        Mean loss, and accuracy or IoU, of all ranks; and the statistics of this rank's samples.
    """
    world, everyone = context.world, context.everyone
    homes = Homes(len(context.validation.source), world.size)
    parts = world.size * context.accumulate
    size = 1 if context.data.own_sizes else max(1, context.global_batch // parts)
    micro_batches = plain_micro_batches(*homes.rows(world.rank), size)
    n_most = -(-int(np.diff(homes.starts).max()) // size)  # batches of the rank that has most
    batches = context.pass_progress.run_unrecorded(
        context.validation(micro_batches, epoch=0, augment=False), n_most, may_stop
    )
    evaluated = context.learner.evaluate(context.heartbeat.along(batches))
    stats_buffer = SampleStatsBuffer(TEST_COLUMNS)
    for batch_stats in evaluated:
        stats_buffer.add(batch_stats)
    stats = stats_buffer.stats()
    loss = {"val_loss": everyone.mean(stats.loss).value}
    if context.learner.has_masks:
        return loss | _iou(evaluated, context), stats
    return loss | {"val_accuracy": everyone.mean(stats.correct).value}, stats


def _iou(evaluated: list[BatchStats], context: Context) -> dict[str, float]:
    """Return the mean over images of each one's mean IoU, and the mean IoU of all images as one."""
    none = np.zeros((0, context.learner.n_classes), np.int64)  # a rank may have no image
    counts = [
        np.concatenate([none, *(batch_stats.columns[name].cpu().numpy() for batch_stats in evaluated)])
        for name in ("intersection", "union")
    ]
    whole = context.world.comm.sum(np.stack([count.sum(axis=0, keepdims=True) for count in counts]))
    return {
        "val_iou": context.everyone.mean(np.asarray(mean_iou(*counts), np.float32)).value,
        "val_iou_corpus": float(mean_iou(*whole)[0]),
    }


def deal_passes(
    times: np.ndarray,
    epoch: Epoch,
    ledger: Ledger,
    context: Context,
    weight: np.ndarray | None = None,
    level: Level = "epoch",
) -> EpochSchedule:
    """Deal this many passes of each row over ranks and batches; at batch level, in candidate batches."""
    global_batch, accumulate = context.global_batch, context.accumulate
    if level == "batch":
        global_batch = cast(BatchMethod, context.method).selection_pass(global_batch).global_batch
        accumulate = 1
    if context.shards is not None:
        return context.shards.deal(ledger, times, epoch, global_batch, accumulate, weight)
    return deal(ledger.rows, times, epoch, context.world.comm, global_batch, accumulate, weight)


def _candidate_columns(schedule: EpochSchedule, ledger: Ledger, context: Context) -> dict[str, np.ndarray]:
    """Return the ids of this rank's candidates, ascending, and the ledger columns that come with them."""
    names = cast(BatchMethod, context.method).selection_pass(context.global_batch).columns
    if not names:
        return {}
    ids = np.unique(np.concatenate([schedule.id, np.array([schedule.filler], np.int64)]))
    return {"id": ids, **fetch_columns(ids, names, ledger, context.homes, context.world.comm)}


def _begin_epoch(
    epoch: Epoch, plan: Plan, method_state: MethodState, context: Context, n: int | None = None
) -> None:
    """Prepare the learner for an epoch, of n trained entries if that is known before.

    If the method's state counts samples trained, the learning-rate schedule follows them.
    """
    if "trained" not in method_state:
        context.learner.begin_epoch(epoch.number, plan.lr_scale)
        return
    n_samples = context.homes.n
    start = method_state["trained"][0] / n_samples
    context.learner.begin_epoch(epoch.number, plan.lr_scale, start, 1.0 if n is None else n / n_samples)


def _count_trained(method_state: MethodState, n: int) -> MethodState:
    """Return the state in which n more samples are counted as trained, if it counts them."""
    if "trained" not in method_state:
        return method_state
    return {**method_state, "trained": method_state["trained"] + n}


def _bring_home(stats: SampleStats, ledger: Ledger, epoch: Epoch, context: Context) -> Ledger:
    return bring_home(stats, ledger, context.homes, context.world.comm, epoch)


def _batches_of(
    label: str,
    schedule: EpochSchedule,
    epoch: Epoch,
    augment: bool,
    results: Resumable,
    context: Context,
    may_stop: bool = True,
) -> Iterator[Batch]:
    """Yield the batches of a pass that are still to be done, under a progress bar."""
    batches = context.pass_progress.run_pass(
        schedule,
        lambda rest: context.learner.parts.wait(context.train(rest, epoch.number, augment)),
        results,
        may_stop,
    )
    return context.console.bar(context.heartbeat.along(batches), len(schedule), label)
