"""Exchange of sample statistics: from the ranks that computed them to the home ranks' ledgers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.ledger import Homes, Ledger
from ..core.plan import Epoch
from ..core.sample_stats import SampleStats
from ..distributed.comm import Comm


def bring_home(stats: SampleStats, ledger: Ledger, homes: Homes, comm: Comm, epoch: Epoch) -> Ledger:
    """Return this rank's ledger, updated with the statistics that any rank has of its samples.

    All ranks call it together; see ``send_home`` for the columns. Of several entries of one id, the one
    with the largest position counts.

    Args:
        stats: statistics of samples of any home.
        ledger: this rank's rows.
        homes: the home rank of every id.
        comm: all ranks.
        epoch: becomes ``seen_epoch`` of these samples.
    """
    return ledger.update(send_home(stats, homes, comm), epoch.number)


def fetch_columns(
    ids: np.ndarray, names: Sequence[str], ledger: Ledger, homes: Homes, comm: Comm
) -> dict[str, np.ndarray]:
    """Return some of the method's columns of these samples, of any home, in the order of the ids.

    All ranks call it together, each with ids of its own. Two exchanges of O(its share).
    """
    home = homes.of(ids)
    by_home = np.argsort(home, kind="stable")
    asked, n_asked = comm.exchange(ids[by_home], np.bincount(home, minlength=comm.size))
    back, rows = np.argsort(by_home), asked - ledger.start
    return {name: comm.exchange(ledger.extra[name][rows], n_asked)[0][back] for name in names}


def send_home(stats: SampleStats, homes: Homes, comm: Comm) -> SampleStats:
    """Return all ranks' statistics of the samples whose home this rank is.

    One exchange, in which each rank sends and receives O(its share). All ranks' statistics carry the same
    extra columns, in name, dtype and width.
    """
    columns = {"id": stats.id, "position": stats.position, "loss": stats.loss, "correct": stats.correct}
    columns |= {"confidence": stats.confidence, **stats.extra}
    row = np.dtype([(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
    outgoing = np.empty(len(stats), row)
    for name, column in columns.items():
        outgoing[name] = column
    home = homes.of(stats.id)
    by_home = np.argsort(home, kind="stable")
    incoming, _ = comm.exchange(outgoing[by_home], np.bincount(home, minlength=comm.size))
    received = {name: np.ascontiguousarray(incoming[name]) for name in columns}
    extra = {name: received.pop(name) for name in stats.extra}
    return SampleStats(**received, extra=extra)
