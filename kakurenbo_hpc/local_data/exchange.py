"""Plan of an exchange between shards: after each plan, the fewest moves of samples that balance the ranks.

Nothing moves here: ``shards.py`` starts an exchange, ``transfer.py`` sends its files.

A sample's row stays at its home rank; its *place* is the rank that holds its data. A method hides unequal
numbers of samples at different places, and every step would wait for the place with the most to train. So
the places with the most visible samples give some to those with the fewest. Home ranks decide this for their
own rows: only counts travel, one number per place, and no rank ever sees all ids.

A rank's share is N / P samples. Hidden samples stay at their place, up to twice a rank's share of all hidden
samples; beyond that they are assigned to places with room, which fetch them from the shared file system
(rare: the place must hold twice as many hidden samples as the mean). Files that were sent are deleted once
they have arrived. So a rank holds at most ``max_held`` samples, about (1 + F) N / P with a fraction F hidden,
and (1 + Q + F) N / P during the exchange, Q being the exchange share.

Source: the exchange share is partial local shuffling (Nguyen et al. 2022, "Why globally re-shuffle?
Revisiting data shuffling in large scale deep learning").
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
    """Return the place of each row in this epoch, (S,) int32; a sample moves where it differs from ``place``.

    Afterwards the numbers of visible samples at two places differ by at most one. With share 0 this takes
    the fewest moves possible, sum(max(0, visible_r - target_r)). The result is a function of (seed, epoch,
    id), of the places before and of the homes. Collective: four to ten reductions of P numbers; memory
    O(S + P).

    Args:
        ids: (S,) int64, this rank's rows.
        place: (S,) int32, their places so far.
        visible: (S,) bool, whether the epoch trains them.
        epoch: its seed and number decide what moves.
        comm: all ranks.
        share: Q, the part of its visible samples that every rank swaps with random other ranks, 0 to 1.
    """
    before, place = place, place.copy()
    visible_rows, hidden_rows = np.flatnonzero(visible), np.flatnonzero(~visible)
    n_visible, n_hidden = (
        _count_by_place(place[visible_rows], comm),
        _count_by_place(place[hidden_rows], comm),
    )
    target = balance(n_visible)
    surplus, free = np.maximum(n_visible - target, 0), np.maximum(target - n_visible, 0)
    _fill_room(visible_rows, surplus, free, ids, place, key(epoch.seed, "balance", epoch.number), comm)

    n_swapped = swap_count(int(n_visible.sum()), share, comm.size)
    _swap_rows(visible_rows, n_swapped, ids, place, epoch, comm)

    allowed = _max_hidden_held(int(n_hidden.sum()), comm.size)
    crowded, room = np.maximum(n_hidden - allowed, 0), np.maximum(allowed - n_hidden, 0)
    _fill_room(hidden_rows, crowded, room, ids, place, key(epoch.seed, "crowded", epoch.number), comm)

    # During the exchange only hidden samples in excess are gone, and every visible sample may have arrived.
    held_before, held = n_visible + n_hidden, _count_by_place(place, comm)
    arriving = visible_rows[place[visible_rows] != before[visible_rows]]
    held_meanwhile = held_before - crowded + _count_by_place(place[arriving], comm)
    most = max_held(int(n_visible.sum()), int(n_hidden.sum()), comm.size)
    assert held.max() <= most, f"a place is to hold {held.max()} samples, but may hold {most}"
    assert (held_meanwhile <= np.maximum(held_before, held) + n_swapped).all(), (
        "a place would hold more than its exchange share on top"
    )
    return place


def balance(n: np.ndarray) -> np.ndarray:
    """Return balanced counts of the same sum, (P,) int64; larger where ``n`` is, for fewest moves."""
    target = np.full(len(n), n.sum() // len(n))
    target[np.argsort(-n, kind="stable")[: n.sum() % len(n)]] += 1
    return target


def swap_count(n_visible: int, share: float, n_ranks: int) -> int:
    """Return how many samples each rank swaps with others."""
    return int(share * (n_visible // n_ranks)) if n_ranks > 1 else 0


def max_held(n_visible: int, n_hidden: int, n_ranks: int) -> int:
    """Return the most samples at a place after an exchange: a share of the visible, two of the hidden."""
    return -(-n_visible // n_ranks) + _max_hidden_held(n_hidden, n_ranks)


def _max_hidden_held(n_hidden: int, n_ranks: int) -> int:
    return 2 * -(-n_hidden // n_ranks)


def _count_by_place(place: np.ndarray, comm: Comm) -> np.ndarray:
    """Return the number of all ranks' rows at each place, (P,) int64."""
    return comm.sum(np.bincount(place, minlength=comm.size))


def _fill_room(
    rows: np.ndarray,
    surplus: np.ndarray,
    room: np.ndarray,
    ids: np.ndarray,
    place: np.ndarray,
    stream: int,
    comm: Comm,
) -> None:
    """Move ``surplus[p]`` rows of each place p to the places with room, in order of rank, in ``place``."""
    if not surplus.any():
        return
    chosen, number = _draw_rows(rows, surplus, ids, place, stream, comm)
    number += (np.cumsum(surplus) - surplus)[place[chosen]]
    place[chosen] = np.searchsorted(np.cumsum(room), number, side="right")


def _swap_rows(
    rows: np.ndarray, n: int, ids: np.ndarray, place: np.ndarray, epoch: Epoch, comm: Comm
) -> None:
    """Move n of the rows at every place to other places, in ``place``; every place receives n.

    The i-th row that leaves its place moves on by a number of ranks drawn for (epoch, i), the same at every
    place.
    """
    if not n:
        return
    chosen, number = _draw_rows(
        rows, np.full(comm.size, n), ids, place, key(epoch.seed, "exchange", epoch.number), comm
    )
    onward = 1 + bits(key(epoch.seed, "onward", epoch.number), np.arange(n)) % np.uint64(comm.size - 1)
    place[chosen] = (place[chosen] + onward.astype(np.int64)[number]) % comm.size


def _draw_rows(
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
