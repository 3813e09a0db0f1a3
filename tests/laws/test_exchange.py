"""Laws of the exchange: each sample in one place, evenly, by the fewest moves, within the storage."""

from fractions import Fraction
from math import floor

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.ledgers import picked

from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.core.rng import bits, key
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.local_data.exchange import balance, first_places, max_held, plan_exchange

SHARES = [[True], [False], [True, False], [True, True, False]]  # of visible samples


@st.composite
def runs(draw):
    """Places, homes and several epochs' visible samples, on 1 to 8 ranks; places initial, or any."""
    n_ranks, n = draw(st.integers(1, 8)), draw(st.integers(0, 80))
    return {
        "place": draw(
            st.sampled_from(
                [first_places(np.arange(n), n_ranks), picked(draw, list(range(n_ranks)), n, np.int32)]
            )
        ),
        "cuts": [
            0,
            *sorted(draw(st.lists(st.integers(0, n), min_size=n_ranks - 1, max_size=n_ranks - 1))),
            n,
        ],
        "shown": [picked(draw, draw(st.sampled_from(SHARES)), n, bool) for _ in range(3)],
        "share": draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        "seed": draw(st.integers(0, 3)),
    }


def epochs(run):
    """Yield, for each epoch, what is visible and where samples lie before and after its exchange, of all
    ranks together.
    """
    place, cuts = run["place"], run["cuts"]
    ids = np.arange(len(place))
    for number, shown in enumerate(run["shown"]):
        epoch = Epoch(number, 3, run["seed"])

        def work(comm):
            rows = slice(cuts[comm.rank], cuts[comm.rank + 1])
            return plan_exchange(ids[rows], place[rows], shown[rows], epoch, comm, run["share"])

        after = np.concatenate(run_in_threads(len(cuts) - 1, work))
        yield epoch, shown, place, after
        place = after


def oracle(run, epoch, shown, place):
    """The same decision by one who sees everything: lists, exact fractions, one sample after the other."""
    n_ranks = len(run["cuts"]) - 1
    home = np.searchsorted(run["cuts"], np.arange(len(place)), side="right") - 1
    place = place.tolist()

    def drawn(rows, at, n, purpose):
        """n of the rows that lie at one place, in the order in which they are numbered."""
        stream = key(epoch.seed, purpose, epoch.number)
        there = [i for i in rows if place[i] == at]
        if not there:
            return []
        done, found = Fraction(int(bits(stream, np.array([at]))[0]) % len(there), len(there)), []
        for rank in range(n_ranks):
            mine = sorted((i for i in there if home[i] == rank), key=lambda i: bits(stream, np.array([i]))[0])
            quota = floor(done + Fraction(len(mine) * n, len(there))) - floor(done)
            done += Fraction(len(mine) * n, len(there))
            found += mine[:quota]
        return found

    def pour(rows, limit, purpose):
        n = [sum(place[i] == at for i in rows) for at in range(n_ranks)]
        movers = [i for at in range(n_ranks) for i in drawn(rows, at, max(0, n[at] - limit[at]), purpose)]
        free = [at for at in range(n_ranks) for _ in range(max(0, limit[at] - n[at]))]
        for i, at in zip(movers, free):
            place[i] = at

    visible, hidden = np.flatnonzero(shown).tolist(), np.flatnonzero(~shown).tolist()
    low, more = divmod(len(visible), n_ranks)
    fullest = sorted(range(n_ranks), key=lambda at: (-sum(place[i] == at for i in visible), at))
    pour(visible, [low + (at in fullest[:more]) for at in range(n_ranks)], "balance")
    n_swapped = floor(run["share"] * low) if n_ranks > 1 else 0
    onward = bits(key(epoch.seed, "onward", epoch.number), np.arange(n_swapped))
    goes = {}
    for at in range(n_ranks):
        for number, i in enumerate(drawn(visible, at, n_swapped, "exchange")):
            goes[i] = (at + 1 + int(onward[number]) % (n_ranks - 1)) % n_ranks
    for i, at in goes.items():
        place[i] = at
    pour(hidden, [2 * -(-len(hidden) // n_ranks)] * n_ranks, "crowded")
    return place


@given(runs())
def test_the_places_are_those_of_one_who_sees_everything(run):
    for epoch, shown, before, after in epochs(run):
        assert after.tolist() == oracle(run, epoch, shown, before)


@given(runs())
def test_every_rank_has_equally_many_visible_samples_up_to_one(run):
    n_ranks = len(run["cuts"]) - 1
    for _, shown, _, after in epochs(run):
        assert after.dtype == np.int32 and ((0 <= after) & (after < n_ranks)).all()
        assert np.ptp(np.bincount(after[shown], minlength=n_ranks)) <= 1


@given(runs())
def test_without_a_share_no_more_samples_move_than_must(run):
    n_ranks = len(run["cuts"]) - 1
    for _, shown, before, after in epochs(run | {"share": 0.0}):
        n = np.bincount(before[shown], minlength=n_ranks)
        low, more = divmod(int(n.sum()), n_ranks)
        # Whatever ranks get one more than the others, at least the rest of each rank's surplus must leave.
        fewest = np.maximum(n - low, 0).sum() - min(more, np.count_nonzero(n > low))
        assert (before != after)[shown].sum() == np.maximum(0, n - balance(n)).sum() == fewest


@given(runs())
def test_hidden_samples_stay_where_they_lie_unless_a_rank_has_more_than_twice_its_share(run):
    n_ranks = len(run["cuts"]) - 1
    for _, shown, before, after in epochs(run):
        n, allowed = (
            np.bincount(before[~shown], minlength=n_ranks),
            2 * -(-np.count_nonzero(~shown) // n_ranks),
        )
        assert (before != after)[~shown].sum() == np.maximum(0, n - allowed).sum()


@given(runs())
def test_no_rank_holds_more_than_is_promised(run):
    n_ranks, n_total = len(run["cuts"]) - 1, len(run["place"])
    for _, shown, before, after in epochs(run):
        n_shown, n_hidden = np.count_nonzero(shown), np.count_nonzero(~shown)
        held = np.bincount(after, minlength=n_ranks)
        assert held.max() <= max_held(n_shown, n_hidden, n_ranks) <= (n_total + n_hidden) / n_ranks + 3
        arriving = np.bincount(after[shown & (before != after)], minlength=n_ranks)
        crowded = np.bincount(before[~shown & (before != after)], minlength=n_ranks)
        on_the_way = np.bincount(before, minlength=n_ranks) - crowded + arriving
        at_rest = np.maximum(np.bincount(before, minlength=n_ranks), held)
        assert (on_the_way <= at_rest + floor(run["share"] * (n_shown // n_ranks))).all()


@given(runs())
def test_a_share_swaps_as_many_samples_of_every_rank(run):
    n_ranks = len(run["cuts"]) - 1
    place = first_places(np.arange(8 * n_ranks), n_ranks)
    whole = run | {
        "place": place,
        "cuts": [8 * r for r in range(n_ranks + 1)],
        "shown": [np.ones(8 * n_ranks, bool)],
    }
    for _, _, before, after in epochs(whole):
        left = np.bincount(before[before != after], minlength=n_ranks)
        assert (left == (floor(8 * run["share"]) if n_ranks > 1 else 0)).all()


def test_who_moves_is_drawn_fairly():
    """4 ranks, 40 visible samples each, 10 of them swapped: over many epochs each one is as likely to go, and
    to anywhere.
    """
    ids = np.arange(160)
    place = first_places(ids, 4)
    went = np.zeros((4, 160))
    for number in range(200):
        work = (
            lambda comm: plan_exchange(  # noqa: E731
                ids[40 * comm.rank :][:40],
                place[40 * comm.rank :][:40],
                np.ones(40, bool),
                Epoch(number, 200, 0),
                comm,
                0.25,
            )
        )
        after = np.concatenate(run_in_threads(4, work))
        went[after[after != place], np.flatnonzero(after != place)] += 1
    times = went.sum(axis=0)
    assert abs(times - 50).max() < 5 * np.sqrt(200 * 0.25 * 0.75)
    assert abs(went.sum(axis=1) - 2000).max() < 5 * np.sqrt(200 * 40)


def test_twelve_samples_by_hand():
    """Hiding leaves the ranks 2, 3 and 4 samples to train: one goes from the last to the first, the hidden
    stay.
    """
    place = first_places(np.arange(12), 3)  # 0, 1, 2, 0, 1, 2, ...
    shown = ~np.isin(np.arange(12), [0, 1, 3])

    def work(comm):
        rows = slice(4 * comm.rank, 4 * comm.rank + 4)
        return plan_exchange(np.arange(12)[rows], place[rows], shown[rows], Epoch(0, 1, 0), comm)

    after = np.concatenate(run_in_threads(3, work))
    assert np.bincount(after[shown]).tolist() == [3, 3, 3]
    (moved,) = np.flatnonzero(after != place)
    assert (place[moved], after[moved]) == (2, 0) and shown[moved]
