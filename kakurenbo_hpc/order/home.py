"""The way home: what forward passes found out on any rank goes to the ranks whose ledgers want it."""

import numpy as np

from ..core.ledger import Homes
from ..core.sample_stats import SampleStats
from ..distributed.comm import Comm


def send_home(stats: SampleStats, homes: Homes, comm: Comm) -> SampleStats:
    """Return the notes, of all ranks, on samples whose home this rank is. Each rank sends and gets O(its share).

    All ranks' notes carry the same extra columns, in dtype and name.
    """
    columns = {"id": stats.id, "position": stats.position, "loss": stats.loss, "correct": stats.correct}
    columns |= {"confidence": stats.confidence, **stats.extra}
    row = np.dtype([(name, column.dtype) for name, column in columns.items()])
    outgoing = np.empty(len(stats), row)
    for name, column in columns.items():
        outgoing[name] = column
    home = homes.of(stats.id)
    by_home = np.argsort(home, kind="stable")
    ends = np.searchsorted(home[by_home], np.arange(1, comm.size))
    incoming = np.concatenate(comm.alltoallv(np.split(outgoing[by_home], ends)))
    arrived = {name: np.ascontiguousarray(incoming[name]) for name in columns}
    extra = {name: arrived.pop(name) for name in stats.extra}
    return SampleStats(**arrived, extra=extra)
