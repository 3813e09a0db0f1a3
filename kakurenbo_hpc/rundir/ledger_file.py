"""Files of an epoch's samples, by id: ``ledger/epoch_NNNN.h5`` with the plan, ``test/epoch_NNNN.h5``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..core.ledger import Ledger
from ..core.plan import Plan
from ..core.sample_stats import SampleStats
from ..distributed.comm import Comm
from .atomic_io import Hdf5

_WINDOW = 1 << 20  # ids sent to rank 0 at a time, which bounds its memory


def write_ledger(
    run: Path, epoch: int, ledger: Ledger, plan: Plan, comm: Comm, label: np.ndarray | None = None
) -> None:
    """Write id, loss, correct, confidence, seen_epoch, train, weight, refresh and the method's own columns.

    Also label, (S,) int32, where the classes are known, and selection_probability where the plan was drawn.
    Collective.

    Raises:
        OSError: the disk did not take them; on rank 0, after all communication.
    """
    n = len(ledger)
    columns = {
        "id": ledger.id,
        "loss": ledger.loss,
        "correct": ledger.correct,
        "confidence": ledger.confidence,
        "seen_epoch": ledger.seen_epoch,
        "train": plan.train.astype(np.int32),
        "weight": np.ones(n, np.float32) if plan.weight is None else plan.weight.astype(np.float32),
        "refresh": np.zeros(n, bool) if plan.refresh is None else plan.refresh,
        **({} if label is None else {"label": label}),
        **({} if plan.probability is None else {"selection_probability": plan.probability}),
        **ledger.extra,
    }
    _write(run / "ledger" / f"epoch_{epoch:04d}.h5", columns, ledger.start, ledger.n_total, comm)


def write_test(run: Path, epoch: int, stats: SampleStats, start: int, n_total: int, comm: Comm) -> None:
    """Write id, loss, correct, confidence, probability of the target, and label of validation samples.

    Collective.

    Args:
        run: the run directory.
        epoch: its number.
        stats: of this rank's samples, in order of id.
        start: first id of this rank.
        n_total: samples of all ranks.
        comm: all ranks.

    Raises:
        OSError: the disk did not take them; on rank 0, after all communication.
    """
    names = ("id", "loss", "correct", "confidence")
    columns = {**{name: getattr(stats, name) for name in names}, **stats.extra}
    _write(run / "test" / f"epoch_{epoch:04d}.h5", columns, start, n_total, comm)


def _write(path: Path, columns: Mapping[str, np.ndarray], start: int, n_total: int, comm: Comm) -> None:
    """Write columns, (S, ...) each, of the rows from ``start`` on, a window of ids at a time."""
    n = len(columns["id"])
    rows = np.empty(n, [(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
    for name, column in columns.items():
        rows[name] = column

    written = Hdf5(path) if comm.rank == 0 else None
    if written is not None:
        for name in columns:
            item, shape = rows.dtype[name].subdtype or (rows.dtype[name], ())
            written.file.create_dataset(name, (n_total, *shape), item)
    for first in range(0, n_total, _WINDOW):
        low, high = (min(max(edge - start, 0), n) for edge in (first, first + _WINDOW))
        n_sent = np.zeros(comm.size, np.int64)
        n_sent[0] = high - low
        window, _ = comm.exchange(rows[low:high], n_sent)
        if written is not None:
            for name in columns:
                written.file[name][first : first + len(window)] = window[name]
    if written is not None:
        written.close()
