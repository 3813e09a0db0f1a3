"""One line of metrics per epoch, as in ``metrics.jsonl`` and in ``Hiding.metrics``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.ledger import Ledger
from ..core.plan import Epoch, Plan
from ..order.deal import EpochSchedule

if TYPE_CHECKING:  # Hiding imports this module, and needs nothing of these
    from .context import Context
    from .loops import TrainResult


def metrics_line(
    epoch: Epoch,
    plan: Plan,
    schedule: EpochSchedule,
    *,
    n_samples: int,
    n_hidden: int,
    n_forward: int,
    n_forward_select: int,
    n_backward: int,
    steps: int,
    losses: Mapping[str, float] = {},
    learner: Mapping[str, float] = {},
) -> dict[str, Any]:
    """Return an epoch's metrics: the counts that every training loop has, and those of the driver's own.

    Args:
        epoch: the epoch.
        plan: its plan.
        schedule: of its training pass.
        n_samples: samples of the data set.
        n_hidden: samples that are not trained.
        n_forward: forward passes of samples.
        n_forward_select: those of them that were made to select: scoring, candidates, refresh.
        n_backward: backward passes of samples.
        steps: optimizer steps.
        losses: training loss and validation metrics, where they are known.
        learner: metrics of model and optimizer, where they are known.
    """
    return {
        "epoch": epoch.number,
        **losses,
        "n_samples": n_samples,
        "n_candidates": plan.n_candidates,
        "n_moved_back": plan.n_moved_back,
        "n_hidden": n_hidden,
        "hidden_fraction": n_hidden / n_samples,
        "max_fraction": plan.max_fraction,
        "n_forward": n_forward,
        "n_forward_select": n_forward_select,
        "n_backward": n_backward,
        **learner,
        "lr_scale": plan.lr_scale,
        "steps": steps,
        "order_hash": f"{schedule.order_hash:016x}",
    }


def driver_metrics(
    epoch: Epoch,
    plan: Plan,
    schedule: EpochSchedule,
    trained: TrainResult,
    ledger: Ledger,
    validation: Mapping[str, float],
    context: Context,
) -> dict[str, Any]:
    """Return the metrics of an epoch that the driver has run. Collective.

    Args:
        epoch: the epoch.
        plan: its plan.
        schedule: of its training pass.
        trained: results of its training pass; a new number of it is a field there, set in ``loops.py``.
        ledger: this rank's rows after the epoch.
        validation: metrics of the evaluation.
        context: of the run.
    """
    everyone, learner, shards = context.everyone, context.learner, context.shards
    refreshed = np.zeros(len(ledger), bool) if plan.refresh is None else plan.refresh
    updated = ledger.seen_epoch == epoch.number
    n_refreshed, n_nan = everyone.count(refreshed, updated & np.isnan(ledger.loss))
    method = context.method
    n_scored = ledger.n_total * method.needs_scoring_pass(epoch)
    if context.vector_pass is not None and method.selects_subset(epoch):
        n_scored += context.vector_pass.n_passes
    histogram = everyone.histogram(ledger.loss)
    line = metrics_line(
        epoch,
        plan,
        schedule,
        n_samples=ledger.n_total,
        n_hidden=trained.n_hidden,
        n_forward=n_scored + trained.n_forward + n_refreshed,
        n_forward_select=n_scored + trained.n_selection + n_refreshed,
        n_backward=trained.n_backward + n_scored * method.needs_full_gradient,
        steps=trained.steps,
        losses={"train_loss": everyone.mean(trained.losses).value, **validation},
        learner={"n_nan": n_nan, "n_skipped_steps": learner.n_skipped, "lr": learner.lr},
    )
    line["loss_histogram"] = {"edges": histogram.edges.tolist(), "counts": histogram.counts.tolist()}
    n_read = n_scored + schedule.n + n_refreshed
    line["input_bytes"] = (
        n_read * 4 * (math.prod(context.data.shape) + 2 * math.prod(context.data.target_shape))
    )
    if plan.n_filled is not None:
        line["n_filled"] = plan.n_filled
    if trained.staleness is not None:
        line["staleness"] = trained.staleness
    if shards is not None:
        line["exchange"] = shards.metrics()
    return line
