"""One epoch, told in order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.batch import MethodState
from ..core.ledger import Ledger
from ..core.plan import Epoch, Plan
from ..order.deal import EpochSchedule
from ..rundir.timers import StageTimer
from .context import Context
from .loops import TRAIN_LOOPS, TrainResult, deal_passes, evaluate, forward_pass


@dataclass(frozen=True)
class EpochResult:
    """What an epoch leaves: ledger and memory after it, its plan and the ledger that it was decided on, its metrics."""

    ledger: Ledger
    method_state: MethodState
    plan: Plan
    planned_on: Ledger
    line: dict


def run_epoch(
    epoch: Epoch, ledger: Ledger, method_state: MethodState, context: Context, clock: StageTimer
) -> EpochResult:
    """Run one epoch on this rank."""
    s = context
    s.pass_progress.begin_epoch()
    with clock("plan"):
        if s.method.needs_scoring_pass(epoch):
            ledger = forward_pass(np.ones(len(ledger), bool), "eval", True, epoch, ledger, s)
            ledger = ledger.with_columns(s.method.update(epoch, ledger, "scoring"))
        plan = s.method.plan(epoch, ledger, s.everyone)
        if s.shards is not None:
            ledger = s.shards.exchange(epoch, plan.train != 0, ledger)
        level = s.method.selection_level(epoch)
        micro_batches = deal_passes(plan.train, epoch, ledger, s, plan.weight, level)

    with clock("train"):
        after, method_state, trained = TRAIN_LOOPS[level](epoch, plan, micro_batches, ledger, method_state, s)
        s.learner.average_statistics()

    with clock("refresh"):
        if plan.refresh is not None:
            after = forward_pass(plan.refresh, plan.refresh_mode, plan.refresh_augment, epoch, after, s)
        after = after.with_columns(s.method.update(epoch, after, "epoch"))

    with clock("evaluate"):
        measured = evaluate(s)

    return EpochResult(
        after, method_state, plan, ledger, _line(epoch, plan, micro_batches, trained, after, measured, s)
    )


def _line(
    epoch: Epoch,
    plan: Plan,
    micro_batches: EpochSchedule,
    trained: TrainResult,
    after: Ledger,
    measured: dict[str, float],
    s: Context,
) -> dict:
    """Return what the run's metrics say of this epoch."""
    refreshed = np.zeros(len(after), bool) if plan.refresh is None else plan.refresh
    noted = after.seen_epoch == epoch.number
    n_refreshed, n_nan = s.everyone.count(refreshed, noted & np.isnan(after.loss))
    n_first = after.n_total if s.method.needs_scoring_pass(epoch) else 0
    histogram = s.everyone.histogram(after.loss)
    return {
        "epoch": epoch.number,
        "train_loss": s.everyone.mean(trained.losses).value,
        **measured,
        "n_samples": after.n_total,
        "n_candidates": plan.n_candidates,
        "n_moved_back": plan.n_moved_back,
        "n_hidden": trained.n_hidden,
        "hidden_fraction": trained.n_hidden / after.n_total,
        "max_fraction": plan.max_fraction,
        "n_forward": n_first + trained.n_forward + n_refreshed,
        "n_backward": trained.n_backward,
        "n_nan": n_nan,
        "n_skipped_steps": s.learner.n_skipped,
        "lr": s.learner.lr,
        "lr_scale": plan.lr_scale,
        "steps": trained.steps,
        "order_hash": f"{micro_batches.order_hash:016x}",
        "loss_histogram": {"edges": histogram.edges.tolist(), "counts": histogram.counts.tolist()},
        **({} if s.shards is None else {"exchange": s.shards.metrics()}),
    }
