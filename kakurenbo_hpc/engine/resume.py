"""Run state between two epochs: at the start of a run, or restored from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..config.job import Job
from ..core.batch import MethodState
from ..core.ledger import Ledger
from ..errors import RunDirectoryError
from ..rundir.checkpoint.shards import (
    MidEpoch,
    load_learner,
    load_ledger,
    load_method_state,
    load_mid_epoch,
    reading,
)
from ..rundir.job_diff import differences
from ..selection.method import init_ledger
from .context import Context


@dataclass(frozen=True)
class RunState:
    """State of a run before an epoch, beside that of the learner.

    Attributes:
        ledger: this rank's rows.
        method_state: this rank's.
        epoch: the next epoch to run.
        last_line: metrics of the epoch before; None if there is none.
        seconds: by stage, already spent on the next epoch when it was left.
        changes: of the job since the run began, for provenance.
    """

    ledger: Ledger
    method_state: MethodState
    epoch: int = 0
    last_line: dict[str, Any] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)


def init_state(context: Context) -> RunState:
    """Return the state before epoch 0.

    Raises:
        DataError: on all ranks alike.
    """
    method, data = context.method, context.data
    ledger = init_ledger(method, context.homes, context.world.comm, data.fingerprint)
    ledger = context.shards.assign_ranks(ledger) if context.shards else ledger
    return RunState(ledger, method.init_state())


def restore(
    checkpoint: Path, facts: Mapping[str, Any], state: RunState, job: Job, context: Context
) -> RunState:
    """Restore learner and progress of the passes from a checkpoint, and return the run's state. Collective.

    Args:
        checkpoint: its folder.
        facts: its manifest.
        state: before epoch 0, for what the checkpoint lacks.
        job: the job as it is now.
        context: of the run.

    Raises:
        RunDirectoryError: on all ranks alike, the checkpoint does not fit this job or these ranks.
    """
    world, learner = context.world, context.learner
    state = world.comm.run_or_raise_together(lambda: _load(checkpoint, facts, state, job, context))
    if facts["ranks"] != world.size:  # buffers were restored as shares, and places are of other ranks
        learner.average_statistics()
        if context.shards:
            state = replace(state, ledger=context.shards.assign_ranks(state.ledger))
    return state


def _load(
    checkpoint: Path, facts: Mapping[str, Any], state: RunState, job: Job, context: Context
) -> RunState:
    """Restore what the checkpoint holds for this rank.

    Raises:
        RunDirectoryError: perhaps on one rank only.
    """
    world, learner, report = context.world, context.learner, context.heartbeat.touch
    changes = differences(facts["job"], job)
    if facts["data"] != context.data.fingerprint and not changes:
        raise RunDirectoryError(
            f"{checkpoint}: belongs to another data set than {job.data.name} is now; give another --run-dir"
        )
    with reading(checkpoint):
        ledger = load_ledger(checkpoint, facts, state.ledger, report)
        method_state = load_method_state(checkpoint, facts, world.rank, state.method_state, report)
        learner.load_state_dict(load_learner(checkpoint, world.device, report))
        mid_epoch = load_mid_epoch(checkpoint, facts, world.rank, world.size, world.device, report)
    if mid_epoch is not None:
        _check_mid_epoch(checkpoint, facts, context)
        _restore_mid_epoch(mid_epoch, context)
    return RunState(
        ledger,
        method_state,
        epoch=facts["epoch"] + 1,
        last_line=facts["line"],
        seconds={} if mid_epoch is None else facts["seconds"],
        changes=[*facts["changes"], *([{"after": checkpoint.name, "changes": changes}] if changes else [])],
    )


def _check_mid_epoch(checkpoint: Path, facts: Mapping[str, Any], context: Context) -> None:
    """Check that a checkpoint inside an epoch fits these ranks.

    Raises:
        RunDirectoryError: it does not.
    """
    n_ranks, n_saved = context.world.size, facts["ranks"]
    if facts["global_batch"] != context.global_batch:
        raise RunDirectoryError(
            f"{checkpoint}: taken inside an epoch with a global batch of {facts['global_batch']}, but with "
            f"{n_ranks} ranks it is {context.global_batch}; resume on {n_saved} ranks"
        )
    if context.shards and n_saved != n_ranks:
        raise RunDirectoryError(
            f"{checkpoint}: taken inside an epoch whose samples are on the disks of {n_saved} ranks, but "
            f"this run has {n_ranks}, and no checkpoint of a whole epoch is left; resume on {n_saved} ranks"
        )


def _restore_mid_epoch(mid_epoch: MidEpoch, context: Context) -> None:
    context.learner.load_buffers(mid_epoch.buffers)
    context.pass_progress.restore(mid_epoch.passed)
