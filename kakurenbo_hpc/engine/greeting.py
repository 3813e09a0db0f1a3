"""Greeting of a run: what is run, printed before its epochs, and what the user should know of it."""

from __future__ import annotations

from pathlib import Path

from ..config.job import Job
from ..selection.batch_level import keeps_graphs
from ..selection.method import Method
from .context import Context


def list_warnings(job: Job[Method], context: Context) -> list[str]:
    """Return what the user should know before the epochs."""
    told = list(job.selection.warnings(context.epochs))
    if context.learner.waits_in_steps:
        told.append(
            f"training.optimizer is {job.training.optimizer}, with which every step waits for the GPU to "
            "learn whether its gradient is finite; sgd (without dampening), adam and adamw do not wait where "
            "they are fused"
        )
    if context.accumulate > 1 and keeps_graphs(context.method, context.global_batch):
        told.append(
            f"training.accumulate is {context.accumulate}, but selection.reuse_forward is true, which keeps "
            "the graphs of whole candidate batches; set it to false where memory is short"
        )
    if context.validation.workers < job.data.workers:
        told.append(
            f"data.workers is {job.data.workers}, but worker processes need /dev/shm, which is missing; "
            "ranks read by themselves"
        )
    return told


def greet(job: Job[Method], context: Context, checkpoint: Path | None, resume: bool) -> None:
    """Print what is run, and what the user should know before."""
    world, print_line = context.world, context.console.print_line
    ranks = f"{world.size} ranks" if world.size > 1 else "1 rank"
    least, left_over = divmod(context.global_batch, world.size * context.accumulate)
    at_once = f", {least} or {least + 1} at once on a rank" if left_over else ""
    print_line(
        f"{job.name}: {job.selection.method} on {job.data.name}, {context.homes.n} samples, {ranks} on "
        f"{world.device.type}, global batch {context.global_batch}{at_once}"
    )
    for warning in list_warnings(job, context):
        print_line(f"warning: {warning}")
    if checkpoint:
        print_line(f"resuming after {checkpoint.name}")
    elif resume:
        print_line("no checkpoint yet: beginning at epoch 0")
