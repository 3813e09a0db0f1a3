"""Optional files of each epoch: samples, test set, weights, thumbnails, seconds of ranks.

A run goes on without one that cannot be written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..config.job import Job
from ..core.ledger import Homes, Ledger
from ..core.plan import Epoch
from ..errors import DataError
from ..rundir.ledger_file import write_ledger, write_test
from ..rundir.rank_seconds import OF_ALL_RANKS, RankSeconds
from ..rundir.tensorboard import TensorBoard
from ..selection.method import Method
from ..selection.score_file import ScoreInfo, write_scores
from .context import Context
from .epoch import EpochResult
from .sample_images import write_images


class EpochFiles:
    """The files of a run's epochs."""

    def __init__(self, directory: Path, job: Job[Method], context: Context, epoch: int) -> None:
        """Prepare for the epochs of a run from ``epoch`` on. On all ranks."""
        self._directory, self._job, self._context = directory, job, context
        record, comm = job.record, context.world.comm
        labels = context.data.train.labels()
        rows = slice(*context.homes.rows(comm.rank))
        self._label = None if labels is None else labels[rows].astype(np.int32)
        self._rank_seconds = RankSeconds(directory, comm) if record.rank_seconds else None
        self._tensorboard = None
        if comm.rank == 0 and self._rank_seconds is not None:
            self._rank_seconds.rewind(epoch)
        if comm.rank == 0 and record.tensorboard:
            self._tensorboard = TensorBoard(directory, epoch)

    def write(self, epoch: Epoch, result: EpochResult) -> None:
        """Write what belongs to the samples of an epoch. Collective."""
        directory, record, comm = self._directory, self._job.record, self._context.world.comm
        if record.ledger:
            self._try(
                f"the ledger file of epoch {epoch.number}",
                lambda: write_ledger(
                    directory, epoch.number, result.planned_on, result.plan, comm, self._label
                ),
            )
        if record.test:
            homes = Homes(len(self._context.validation.source), comm.size)
            start = homes.rows(comm.rank)[0]
            self._try(
                f"the test file of epoch {epoch.number}",
                lambda: write_test(directory, epoch.number, result.tested, start, homes.n, comm),
            )
        weights = self._job.selection.weights(epoch, result.ledger, epoch.number in record.weights_at)
        if weights is not None:
            self._try("", lambda: self._write_weights(epoch, result.ledger, weights))
        if record.images and epoch.number == epoch.total - 1:
            self._try("images.h5", lambda: self._write_images(result.ledger))

    def write_line(self, line: Mapping[str, Any]) -> None:
        """Write what belongs to the metrics of an epoch, now that they are complete. Collective."""
        if self._rank_seconds is not None:
            file = self._rank_seconds
            seconds = {stage: s for stage, s in line["seconds"].items() if stage not in OF_ALL_RANKS}
            self._try("rank_seconds.h5", lambda: file.add(line["epoch"], seconds))
        if self._tensorboard is not None:
            board = self._tensorboard
            self._try("tensorboard", lambda: board.add(line))

    def _try(self, what: str, write: Callable[[], None]) -> None:
        """Write a file, or warn: an OSError is of rank 0 alone, after its last message to others."""
        try:
            write()
        except DataError as problem:
            self._context.console.print_line(f"warning: {problem}; the run goes on without")
        except OSError as problem:
            self._context.console.print_line(
                f"warning: {what} could not be written ({problem.strerror}); the run goes on without"
            )

    def _write_images(self, ledger: Ledger) -> None:
        context = self._context
        if context.shards is not None:
            raise DataError("record.images: samples are on the disks of other nodes")
        write_images(
            self._directory,
            self._job.record.images,
            ledger,
            context.data.train,
            self._label,
            context.world.comm,
        )

    def _write_weights(self, epoch: Epoch, ledger: Ledger, weights: np.ndarray) -> None:
        """Write sampling weights, (S,), as a score file.

        Raises:
            DataError: on all ranks alike.
        """
        job, context = self._job, self._context
        how = f"{job.name}, seed {job.seed}, after epoch {epoch.number}"
        info = ScoreInfo(
            job.selection.method, how, job.data.name, context.data.fingerprint, ledger.n_total, 0.0, 0, 0
        )
        path = self._directory / "weights" / f"epoch_{epoch.number:04d}.h5"
        label = ledger.extra.get("label", self._label)
        write_scores(path, info, weights, context.world.comm, label)
