"""Ledger file ``ledger/epoch_NNNN.h5``: the statistics and the plan of an epoch, for all samples by id."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..core.ledger import Ledger
from ..core.plan import Plan
from ..distributed.comm import Comm
from .atomic_io import Hdf5

_WINDOW = 1 << 20  # ids sent to rank 0 at a time, which bounds its memory


def write_ledger(run: Path, epoch: int, ledger: Ledger, plan: Plan, comm: Comm) -> None:
    """Write id, loss, correct, confidence, seen_epoch, train, weight, refresh and the method's own columns.

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
        **ledger.extra,
    }
    rows = np.empty(n, [(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
    for name, column in columns.items():
        rows[name] = column

    written = Hdf5(run / "ledger" / f"epoch_{epoch:04d}.h5") if comm.rank == 0 else None
    if written is not None:
        for name in columns:
            item, shape = rows.dtype[name].subdtype or (rows.dtype[name], ())
            written.file.create_dataset(name, (ledger.n_total, *shape), item)
    for first in range(0, ledger.n_total, _WINDOW):
        low, high = (min(max(edge - ledger.start, 0), n) for edge in (first, first + _WINDOW))
        parts = comm.alltoallv([rows[low:high]] + [rows[:0]] * (comm.size - 1))
        if written is not None:
            window = np.concatenate(parts)
            for name in columns:
                written.file[name][first : first + len(window)] = window[name]
    if written is not None:
        written.close()
