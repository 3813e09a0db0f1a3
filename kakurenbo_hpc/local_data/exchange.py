"""Exchange between shards: after each plan, the fewest moves of samples that balance the ranks.

A sample's row stays at its home rank; its *place* is the rank that holds its data. What a method hides is
spread unevenly over places, and all would wait for the place with the most to train. So the fullest give some
of their visible samples to the emptiest. Homes decide this for their own rows: only counts travel, one number
a place, and nobody ever sees all ids. The exchange share is partial local shuffling (Nguyen et al. 2022, "Why
globally re-shuffle? Revisiting data shuffling in large scale deep learning").

Storage. A rank's share is N / P samples. Hidden samples stay where they lie, on top of the visible ones that
come for them, up to twice a rank's share of the hidden; beyond that they are forgotten where they are too
many, and fetched again from the shared file system where there is room (rare: it takes a rank that holds
twice as many hidden samples as the mean). What is given away is deleted once it has arrived. So a rank holds
at most ``max_held`` samples, about (1 + F) N / P with F hidden, and while samples are on their way the
exchange share on top: (1 + Q + F) N / P.
"""

from __future__ import annotations

import numpy as np

from ..core.plan import Epoch
from ..core.rng import bits, key
from ..distributed.comm import Comm


def first_places(ids: np.ndarray, n_ranks: int) -> np.ndarray:
    """Return each sample's first place, (k,) int32: round-robin, so that files in order of class mix."""
    return (ids % n_ranks).astype(np.int32)


def plan_exchange(
    ids: np.ndarray, place: np.ndarray, visible: np.ndarray, epoch: Epoch, comm: Comm, share: float = 0.0
) -> np.ndarray:
    """Return where each row's data is to lie in this epoch, (S,) int32; it moves where that is not ``place``.

    ids: (S,) int64, this rank's rows. place: (S,) int32, where they lie. visible: (S,) bool, whether the
    epoch trains them.
    share: Q, the part of its visible samples that every rank swaps for as many of random other ranks', 0 to
    1. Afterwards the ranks' numbers of visible samples differ by at most one. With share 0, sum(max(0,
    visible_r - target_r)) visible samples move, and none moves with fewer. A function of (seed, epoch, id),
    of where samples lie and of their homes. Four to ten reductions of P numbers; memory O(S + P).
    """
    before, place = place, place.copy()
    shown, hidden = np.flatnonzero(visible), np.flatnonzero(~visible)
    n_shown, n_hidden = _at_each(place[shown], comm), _at_each(place[hidden], comm)
    target = even(n_shown)
    leaving, free = np.maximum(n_shown - target, 0), np.maximum(target - n_shown, 0)
    _fill_room(shown, leaving, free, ids, place, key(epoch.seed, "balance", epoch.number), comm)

    n_swapped = swap_count(int(n_shown.sum()), share, comm.size)
    _swap(shown, n_swapped, ids, place, epoch, comm)

    allowed = _most_hidden(int(n_hidden.sum()), comm.size)
    crowded, room = np.maximum(n_hidden - allowed, 0), np.maximum(allowed - n_hidden, 0)
    _fill_room(hidden, crowded, room, ids, place, key(epoch.seed, "crowded", epoch.number), comm)

    # While samples are on their way, nothing but the crowded has left yet, and everything visible may have
    # come.
    held_before, held = n_shown + n_hidden, _at_each(place, comm)
    on_the_way = held_before - crowded + _at_each(place[shown][place[shown] != before[shown]], comm)
    most = max_held(int(n_shown.sum()), int(n_hidden.sum()), comm.size)
    assert held.max() <= most, f"a rank is to hold {held.max()} samples, but may hold {most}"
    assert (on_the_way <= np.maximum(held_before, held) + n_swapped).all(), (
        "a rank would hold more than its exchange share on top"
    )
    return place


def even(n: np.ndarray) -> np.ndarray:
    """Return balanced counts, (P,) int64 of the same sum, the larger ones where most are: fewest moves."""
    target = np.full(len(n), n.sum() // len(n))
    target[np.argsort(-n, kind="stable")[: n.sum() % len(n)]] += 1
    return target


def swap_count(n_visible: int, share: float, n_ranks: int) -> int:
    """Return how many samples each rank swaps with others."""
    return int(share * (n_visible // n_ranks)) if n_ranks > 1 else 0


def max_held(n_visible: int, n_hidden: int, n_ranks: int) -> int:
    """Return the most samples on a rank after an exchange: its share of the visible, twice the hidden."""
    return -(-n_visible // n_ranks) + _most_hidden(n_hidden, n_ranks)


def _most_hidden(n_hidden: int, n_ranks: int) -> int:
    return 2 * -(-n_hidden // n_ranks)


def _at_each(place: np.ndarray, comm: Comm) -> np.ndarray:
    """Return (P,) int64: how many rows of all ranks lie at each place."""
    return comm.sum(np.bincount(place, minlength=comm.size))


def _fill_room(
    rows: np.ndarray,
    leaving: np.ndarray,
    room: np.ndarray,
    ids: np.ndarray,
    place: np.ndarray,
    stream: int,
    comm: Comm,
) -> None:
    """Move ``leaving[p]`` rows of each place p to the places with room, in order of rank, in ``place``."""
    if not leaving.any():
        return
    chosen, number = _some(rows, leaving, ids, place, stream, comm)
    number += (np.cumsum(leaving) - leaving)[place[chosen]]
    place[chosen] = np.searchsorted(np.cumsum(room), number, side="right")


def _swap(rows: np.ndarray, n: int, ids: np.ndarray, place: np.ndarray, epoch: Epoch, comm: Comm) -> None:
    """Let n of the rows at every place go elsewhere, and as many come; changes ``place``.

    The i-th to leave its place goes as many ranks on as a draw for (epoch, i) says, at every place alike: so
    all get n.
    """
    if not n:
        return
    chosen, number = _some(
        rows, np.full(comm.size, n), ids, place, key(epoch.seed, "exchange", epoch.number), comm
    )
    onward = 1 + bits(key(epoch.seed, "onward", epoch.number), np.arange(n)) % np.uint64(comm.size - 1)
    place[chosen] = (place[chosen] + onward.astype(np.int64)[number]) % comm.size


def _some(
    rows: np.ndarray, n: np.ndarray, ids: np.ndarray, place: np.ndarray, stream: int, comm: Comm
) -> tuple[np.ndarray, np.ndarray]:
    """Draw n[p] of the rows of all ranks at each place p, all equally likely.

    Returns those of this rank's rows, and each one's number, from 0, among all that were drawn at its place.
    Homes share n[p] in proportion to their rows there, rounded at random, and take those of smallest hash.
    """
    mine = np.bincount(place[rows], minlength=comm.size)
    total, before = comm.sum(mine), comm.exscan(mine)
    total = np.maximum(total, 1)
    dither = (bits(stream, np.arange(comm.size)) % total.astype(np.uint64)).astype(np.int64)
    first, last = (before * n + dither) // total, ((before + mine) * n + dither) // total

    rows = rows[np.lexsort((bits(stream, ids[rows]), place[rows]))]
    at = place[rows]
    nth = np.arange(len(rows)) - (np.cumsum(mine) - mine)[at]
    drawn = nth < (last - first)[at]
    return rows[drawn], (first[at] + nth)[drawn]
