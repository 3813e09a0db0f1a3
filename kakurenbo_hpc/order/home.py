"""The way home: what forward passes found out on any rank goes to the ranks whose ledgers want it."""

import numpy as np

from ..core.ledger import Homes
from ..core.sample_stats import Notes
from ..distributed.comm import Comm


def send_home(notes: Notes, homes: Homes, comm: Comm) -> Notes:
    """Return the notes, of all ranks, on samples whose home this rank is. Each rank sends and gets O(its share).

    All ranks' notes carry the same extra columns, in dtype and name.
    """
    columns = {"id": notes.id, "position": notes.position, "loss": notes.loss, "correct": notes.correct}
    columns |= {"confidence": notes.confidence, **notes.extra}
    row = np.dtype([(name, column.dtype) for name, column in columns.items()])
    outgoing = np.empty(len(notes), row)
    for name, column in columns.items():
        outgoing[name] = column
    home = homes.of(notes.id)
    by_home = np.argsort(home, kind="stable")
    ends = np.searchsorted(home[by_home], np.arange(1, comm.size))
    incoming = np.concatenate(comm.alltoallv(np.split(outgoing[by_home], ends)))
    arrived = {name: np.ascontiguousarray(incoming[name]) for name in columns}
    extra = {name: arrived.pop(name) for name in notes.extra}
    return Notes(**arrived, extra=extra)
