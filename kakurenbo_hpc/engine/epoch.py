"""One epoch on one rank: plan, train, average BatchNorm statistics, refresh, evaluate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.batch import MethodState
from ..core.ledger import Ledger
from ..core.plan import Epoch, Plan
from ..core.sample_stats import SampleStats
from ..order.deal import normalise_batches
from ..rundir.timers import StageTimer
from .context import Context
from .loops import TRAIN_LOOPS, deal_passes, evaluate, refresh, score_all
from .metrics_line import driver_metrics
from .subset_selection import select_subset


@dataclass(frozen=True)
class EpochResult:
    """Results of an epoch on one rank.

    Attributes:
        ledger: after the epoch.
        method_state: after the epoch.
        plan: of the epoch.
        planned_on: the ledger that the plan was decided on.
        metrics: the epoch's line of metrics, the same on every rank.
        tested: statistics of this rank's validation samples.
    """

    ledger: Ledger
    method_state: MethodState
    plan: Plan
    planned_on: Ledger
    metrics: dict[str, Any]
    tested: SampleStats


def run_epoch(
    epoch: Epoch, ledger: Ledger, method_state: MethodState, context: Context, timer: StageTimer
) -> EpochResult:
    """Run one epoch on this rank. Collective."""
    method, shards = context.method, context.shards
    context.pass_progress.begin_epoch()

    with timer("plan"):
        if method.needs_scoring_pass(epoch):
            ledger = score_all(epoch, ledger, context)
            ledger = ledger.with_columns(method.update(epoch, ledger, "scoring"))
        if method.selects_subset(epoch):
            ledger = select_subset(epoch, ledger, context)
        plan = method.plan(epoch, ledger, context.everyone)
        if shards is not None:
            ledger = shards.exchange(epoch, plan.train != 0, ledger)
        planned_on, level = ledger, method.selection_level(epoch)
        schedule = deal_passes(plan.train, epoch, ledger, context, plan.weight, level)
        if plan.weighs_by_batch:
            schedule = normalise_batches(schedule, context.world.comm)

    with timer("train"):
        train = TRAIN_LOOPS[level]
        ledger, method_state, trained = train(epoch, plan, schedule, ledger, method_state, context)
        context.learner.finish_steps()
        context.learner.average_statistics()

    with timer("refresh"):
        if plan.refresh is not None:
            ledger = refresh(plan, epoch, ledger, context)
        ledger = ledger.with_columns(method.update(epoch, ledger, "epoch"))

    with timer("evaluate"):
        validation, tested = evaluate(context)

    metrics = driver_metrics(epoch, plan, schedule, trained, ledger, validation, context)
    return EpochResult(ledger, method_state, plan, planned_on, metrics, tested)
