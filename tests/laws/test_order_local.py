"""Laws of node-local order: the same entries, in as many batches of the same sizes, as when shared."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.ledgers import epochs, picked
from support.orders import EPOCH, batches, dealt, entries, everything

from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.local_data.deal_local import deal_local, positions
from kakurenbo_hpc.local_data.exchange import first_places, plan_exchange


@st.composite
def deals(draw):
    """The arguments of one deal, and who lies where; homes and places are split over 1 to 8 ranks."""
    n, n_ranks = draw(st.integers(0, 60)), draw(st.integers(1, 8))
    counts = picked(draw, [1, 0, 2, 3], n, np.int64)
    return {
        "times": counts.astype(bool) if draw(st.booleans()) else counts,
        "cuts": [
            0,
            *sorted(draw(st.lists(st.integers(0, n), min_size=n_ranks - 1, max_size=n_ranks - 1))),
            n,
        ],
        "global_batch": draw(st.integers(1, 20)),
        "accumulate": draw(st.integers(1, 3)),
        "weight": draw(st.sampled_from([None, np.arange(n, dtype=np.float32) + 0.5])),
        "epoch": draw(epochs),
        "place": picked(draw, list(range(n_ranks)), n, np.int32),
        "late": draw(st.sampled_from([None, picked(draw, [False, True], n, bool)])),
    }


def dealt_local(times, cuts, global_batch, accumulate, weight, epoch, place, late):
    def work(comm):
        rows = slice(cuts[comm.rank], cuts[comm.rank + 1])
        ids, filler = np.arange(len(times)), 10**6 + comm.rank
        some = [None if column is None else column[rows] for column in (weight, late)]
        return deal_local(
            ids[rows], times[rows], place[rows], epoch, comm, global_batch, accumulate, *some, filler
        )

    return run_in_threads(len(cuts) - 1, work)


def shared(arguments):
    return dealt(**{name: value for name, value in arguments.items() if name not in ("place", "late")})


@given(deals())
def test_the_same_entries_are_trained_as_where_all_read_everything(arguments):
    local = everything(dealt_local(**arguments))
    assert [entry.position for entry in local] == list(range(len(local)))
    assert sorted(entry[1:] for entry in local) == sorted(
        entry[1:] for entry in everything(shared(arguments))
    )


@given(deals())
def test_each_rank_trains_what_lies_on_it(arguments):
    for rank, micro_batches in enumerate(dealt_local(**arguments)):
        assert all(
            (arguments["place"][micro_batch.id] == rank).all()
            for micro_batch in micro_batches
            if micro_batch.counts
        )


@given(deals())
def test_batches_are_as_many_and_as_large(arguments):
    local, everywhere = dealt_local(**arguments), shared(arguments)
    assert [(t.n, t.steps, len(t)) for t in local] == [(t.n, t.steps, len(t)) for t in everywhere]
    assert [len(batch) for batch in batches(local)] == [len(batch) for batch in batches(everywhere)]
    for micro_batches in local:
        rhythm = [(t.step, t.begins, t.ends, t.n_global, t.progress) for t in micro_batches]
        assert rhythm == [(t.step, t.begins, t.ends, t.n_global, t.progress) for t in everywhere[0]]


@given(deals())
def test_after_an_exchange_no_rank_does_more_of_a_batch_than_others(arguments):
    n, cuts, shown = len(arguments["times"]), arguments["cuts"], arguments["times"] > 0

    def work(comm):
        rows = slice(cuts[comm.rank], cuts[comm.rank + 1])
        return plan_exchange(
            np.arange(n)[rows], arguments["place"][rows], shown[rows], arguments["epoch"], comm, 0.3
        )

    place = np.concatenate(run_in_threads(len(cuts) - 1, work))
    ranks = dealt_local(**arguments | {"place": place, "times": shown})
    for step in range(ranks[0].steps):
        parts = [[len(entries([t])) for t in micro_batches if t.step == step] for micro_batches in ranks]
        of_ranks = [sum(part) for part in parts]
        assert max(of_ranks) - min(of_ranks) <= 1
        assert all(max(part) - min(part) <= 1 for part in parts)


@given(deals())
def test_what_is_still_on_its_way_comes_last_on_its_rank(arguments):
    late = arguments["late"]
    for micro_batches in dealt_local(**arguments):
        waits = [bool(late is not None and late[i]) for i in micro_batches.id]
        assert waits == sorted(waits)


@given(deals())
def test_a_filler_lies_where_it_is_read_and_never_counts(arguments):
    for rank, micro_batches in enumerate(dealt_local(**arguments)):
        for micro_batch in micro_batches:
            assert (
                len(micro_batch.id)
                == len(micro_batch.copy)
                == len(micro_batch.weight)
                == len(micro_batch.position)
                >= 1
            )
            assert (micro_batch.copy.dtype, micro_batch.weight.dtype, micro_batch.position.dtype) == (
                np.int32,
                np.float32,
                np.int64,
            )
            assert micro_batch.counts or micro_batch.id.tolist() == [10**6 + rank]


@given(deals(), st.data())
def test_homes_change_nothing(arguments, data):
    n, n_ranks = len(arguments["times"]), len(arguments["cuts"]) - 1
    others = [
        0,
        *sorted(data.draw(st.lists(st.integers(0, n), min_size=n_ranks - 1, max_size=n_ranks - 1))),
        n,
    ]
    one, other = dealt_local(**arguments), dealt_local(**arguments | {"cuts": others})
    assert batches(one) == batches(other) and one[0].order_hash == other[0].order_hash


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8))
def test_all_ranks_go_at_an_even_pace(n_each):
    moments = [(Fraction(2 * k + 1, 2 * n), -n, rank) for rank, n in enumerate(n_each) for k in range(n)]
    order = [rank for *_, rank in sorted(moments)]
    for rank in range(len(n_each)):
        assert positions(np.array(n_each), rank).tolist() == [p for p, r in enumerate(order) if r == rank]


def test_equal_ranks_take_turns():
    ids = np.arange(9)
    place = first_places(ids, 3)

    def work(comm):
        rows = slice(3 * comm.rank, 3 * comm.rank + 3)
        return deal_local(ids[rows], np.ones(3, bool), place[rows], EPOCH, comm, 4)

    ranks = run_in_threads(3, work)
    assert [micro_batches.position.tolist() for micro_batches in ranks] == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert [[len(micro_batch.id) for micro_batch in micro_batches] for micro_batches in ranks] == [
        [1, 1, 1]
    ] * 3
