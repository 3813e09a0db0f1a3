"""Schedule of node-local data: every rank trains what lies on it, in batches of the same number and size.

Each rank goes through its own entries in the order of the same hash as ``deal``, and all ranks go at an even
pace: the entry k of m stands at (k + 1/2) / m of the epoch, and the positions of the global order count all
ranks' entries by that time. Ranks with equally many entries take turns. So global batches are of equal size
up to one, as ``deal`` makes them, and in each of them ranks with equally many entries differ by at most one.
"""

from __future__ import annotations

import numpy as np

from ..core.plan import Epoch
from ..core.rng import key
from ..distributed.comm import Comm
from ..order.deal import EpochSchedule
from ..order.entries import build_entries, exchange_entries, order_hash, sort_entries, unpack_ids


def deal_local(
    ids: np.ndarray,
    times: np.ndarray,
    place: np.ndarray,
    epoch: Epoch,
    comm: Comm,
    global_batch: int,
    accumulate: int = 1,
    weight: np.ndarray | None = None,
    late: np.ndarray | None = None,
    filler: int = 0,
) -> EpochSchedule:
    """Return this rank's turns over all entries of all ranks that lie here, as ``deal`` does.

    place: (S,) int32, where this rank's rows lie. late: (S,) bool, rows that come last on their rank, since
    they are still on their way; given on all ranks or on none. filler: an id that lies here.
    Where ranks hold unequal numbers of entries (repeats, or hidden samples in the refresh), their parts of a
    batch do, too. One exchange of each rank's own entries; memory O(n / P), if no place has more than its
    share.
    """
    stream = key(epoch.seed, "order", epoch.number)
    entries = build_entries(ids, times, weight, stream)
    if late is not None:
        entries["late"] = np.repeat(late, times.astype(np.int64))
    at = np.repeat(place, times.astype(np.int64))
    by_place = np.argsort(at, kind="stable")
    ends = np.searchsorted(at[by_place], np.arange(1, comm.size))
    entries = sort_entries(
        exchange_entries({name: column[by_place] for name, column in entries.items()}, ends, comm)
    )

    n_each = np.array(comm.gather(len(entries["packed"])))
    n, position = int(n_each.sum()), positions(n_each, comm.rank)
    return EpochSchedule(
        n=n,
        steps=-(-n // global_batch),
        accumulate=accumulate,
        order_hash=order_hash(entries, position, comm),
        id=unpack_ids(entries["packed"]),
        position=position,
        copy=entries.get("copy"),
        weight=entries.get("weight"),
        filler=filler,
    )


def positions(n_each: np.ndarray, rank: int) -> np.ndarray:
    """Return where the entries of this rank stand among all ranks' entries, (n_each[rank],) int64, growing.

    n_each: (P,), how many entries each rank has. In order of time, (k + 1/2) / n; of equal times, ranks with
    more entries first, then by rank. Work and memory grow with the number of *different* numbers of entries.
    """
    mine = n_each[rank]
    moment = (2 * np.arange(mine) + 1)[:, None]
    others, n_ranks = np.unique(n_each[n_each > 0], return_counts=True)
    # How many entries j of a rank with n of them have (2 j + 1) / n < (2 k + 1) / mine; at n > mine also the
    # equal ones.
    gap = moment * others - mine
    earlier = np.where(others > mine, gap // (2 * mine) + 1, (gap + 2 * mine - 1) // (2 * mine))
    return earlier @ n_ranks + np.count_nonzero(n_each[:rank] == mine)
