"""Schedule of node-local data: every rank trains the samples at its place, in batches of equal size.

Each rank goes through its own entries in the order of the same hash as ``deal``, and all ranks advance
evenly: entry k of m stands at (k + 1/2) / m of the epoch, and the global order sorts all ranks' entries by
that. So global batches are of equal size up to one, as ``deal`` makes them, and within each, the parts of
ranks with equally many entries differ by at most one.
"""

from __future__ import annotations

import numpy as np

from ..core.plan import Epoch
from ..core.rng import key
from ..distributed.comm import Comm
from ..order.deal import EpochSchedule
from ..order.entries import (
    build_entries,
    count_id_bits,
    exchange_entries,
    order_hash,
    sort_entries,
    unpack_ids,
)


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
    """Return this rank's schedule over the entries at its place, as ``deal`` does over all entries.

    Where ranks have unequal numbers of entries (repeats, hidden samples in the refresh pass), their parts of
    a global batch are unequal too. One exchange of each rank's own entries; memory O(n / P) if no place has
    more than its share.

    Args:
        ids: (S,) int64, this rank's rows.
        times: (S,) bool or integers, how often each row is passed.
        place: (S,) int32, the rank that holds each row's data.
        epoch: decides the order, by its seed and number.
        comm: all ranks.
        global_batch: the largest global batch, in entries.
        accumulate: micro-batches per step.
        weight: (S,) float32, or None for 1; given on all ranks or on none.
        late: (S,) bool, rows that come last at their place, since they are in transit; given on all ranks or
            on none.
        filler: an id at this place.
    """
    stream = key(epoch.seed, "order", epoch.number)
    id_bits = count_id_bits(ids, comm)
    entries = build_entries(ids, times, weight, stream, id_bits)
    if late is not None:
        entries["late"] = np.repeat(late, times.astype(np.int64))
    at = np.repeat(place, times.astype(np.int64))
    by_place = np.argsort(at, kind="stable")
    n_sent = np.bincount(at, minlength=comm.size)
    entries = sort_entries(
        exchange_entries({name: column[by_place] for name, column in entries.items()}, n_sent, comm)
    )

    n_each = comm.allgather(np.array([len(entries["packed"])]))
    n, position = int(n_each.sum()), positions(n_each, comm.rank)
    return EpochSchedule(
        n=n,
        steps=-(-n // global_batch),
        accumulate=accumulate,
        order_hash=order_hash(entries, position, comm, id_bits),
        id=unpack_ids(entries["packed"], id_bits),
        position=position,
        copy=entries.get("copy"),
        weight=entries.get("weight"),
        filler=filler,
    )


def positions(n_each: np.ndarray, rank: int) -> np.ndarray:
    """Return this rank's positions among all ranks' entries, (n_each[rank],) int64, increasing.

    By time, (k + 1/2) / n; at equal times, ranks with more entries come first, then lower ranks. Work and
    memory grow with the number of *different* numbers of entries.

    Args:
        n_each: (P,), the number of entries of each rank.
        rank: this rank.
    """
    mine = n_each[rank]
    moment = (2 * np.arange(mine) + 1)[:, None]
    others, n_ranks = np.unique(n_each[n_each > 0], return_counts=True)
    # The number of entries j, of a rank with n, with (2 j + 1) / n < (2 k + 1) / mine; <= where n > mine.
    gap = moment * others - mine
    earlier = np.where(others > mine, gap // (2 * mine) + 1, (gap + 2 * mine - 1) // (2 * mine))
    return earlier @ n_ranks + np.count_nonzero(n_each[:rank] == mine)
