"""Files of a single epoch in the run directory: ledger file and weights file.

A run goes on without one that cannot be written.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..config.job import Job
from ..core.ledger import Ledger
from ..core.plan import Epoch
from ..errors import DataError
from ..rundir.ledger_file import write_ledger
from ..selection.method import Method
from ..selection.score_file import ScoreInfo, write_scores
from .context import Context
from .epoch import EpochResult


def write_epoch_files(
    directory: Path, epoch: Epoch, result: EpochResult, job: Job[Method], context: Context
) -> None:
    """Write the ledger file and the weights file of an epoch, where the job wants them. Collective."""
    print_line = context.console.print_line
    if job.record.ledger:
        try:
            write_ledger(directory, epoch.number, result.planned_on, result.plan, context.world.comm)
        except OSError as problem:  # on rank 0 alone, after its last message to the others
            print_line(
                f"warning: the ledger file of epoch {epoch.number} could not be written "
                f"({problem.strerror}); the run goes on without"
            )
    weights = job.selection.weights(epoch, result.ledger, epoch.number in job.record.weights_at)
    if weights is not None:
        try:
            _write_weights(directory, epoch, result.ledger, weights, job, context)
        except DataError as problem:
            print_line(f"warning: {problem}; the run goes on without")


def _write_weights(
    directory: Path, epoch: Epoch, ledger: Ledger, weights: np.ndarray, job: Job[Method], context: Context
) -> None:
    """Write sampling weights, (S,), as a score file.

    Raises:
        DataError: on all ranks alike.
    """
    how = f"{job.name}, seed {job.seed}, after epoch {epoch.number}"
    info = ScoreInfo(
        job.selection.method, how, job.data.name, context.data.fingerprint, ledger.n_total, 0.0, 0, 0
    )
    path = directory / "weights" / f"epoch_{epoch.number:04d}.h5"
    write_scores(path, info, weights, context.world.comm, ledger.extra.get("label"))
