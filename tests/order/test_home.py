"""Tests of the exchange of sample statistics: each home rank receives those of its samples, and no others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakurenbo_hpc.core.ledger import Homes, Ledger
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.core.sample_stats import SampleStats
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.order.home import bring_home, send_home


def stats(ids, position=None):
    """Notes whose every column tells of which id and position it speaks."""
    ids = np.array(ids, np.int64)
    position = np.arange(len(ids)) if position is None else np.array(position, np.int64)
    return SampleStats(
        id=ids,
        loss=(ids % 1000).astype(np.float32),
        correct=ids % 2 == 0,
        confidence=(ids % 7 / 7).astype(np.float32),
        position=position,
        extra={"label": (ids % 5).astype(np.int32), "clock": ids * 3.0},
    )


def sent(of_ranks, n):
    """Return what each rank receives of what each rank notes, n samples in all."""
    homes = Homes(n, len(of_ranks))
    return run_in_threads(len(of_ranks), lambda comm: send_home(of_ranks[comm.rank], homes, comm))


@given(st.data(), st.integers(1, 8), st.sampled_from([1, 5, 60, 20_000, 2**33]))
def test_all_notes_arrive_at_home_and_whole(data, n_ranks, n):
    ids = st.lists(st.integers(0, n - 1), max_size=12)
    position = 0
    of_ranks = []
    for _ in range(n_ranks):
        mine = data.draw(ids)
        of_ranks.append(stats(mine, np.arange(position, position + len(mine))))
        position += len(mine)

    noted = sorted((int(i), int(p)) for mine in of_ranks for i, p in zip(mine.id, mine.position))
    received = sent(of_ranks, n)
    assert sorted((int(i), int(p)) for got in received for i, p in zip(got.id, got.position)) == noted
    for rank, got in enumerate(received):
        start, stop = Homes(n, n_ranks).rows(rank)
        assert np.all((start <= got.id) & (got.id < stop))
        expected = stats(got.id, got.position)
        for name in ("id", "loss", "correct", "confidence", "position"):
            column = getattr(got, name)
            assert column.dtype == getattr(expected, name).dtype and column.flags.c_contiguous
            np.testing.assert_array_equal(column, getattr(expected, name), name)
        assert got.extra.keys() == {"label", "clock"}
        for name, column in got.extra.items():
            assert column.dtype == expected.extra[name].dtype
            np.testing.assert_array_equal(column, expected.extra[name], name)


@pytest.mark.parametrize("id_", [2**24 + 1, 2**31 + 1, 2**32 - 1, 2**53 + 1])
def test_an_id_beyond_what_a_float_holds_arrives_as_it_is(id_):
    received = sent([stats([]), stats([id_]), stats([])], 2**54)
    assert [int(i) for got in received for i in got.id] == [id_]


def test_ranks_that_noted_nothing_and_ranks_that_are_home_of_nothing_take_part():
    received = sent([stats([]), stats([1, 0, 1]), stats([]), stats([])], 2)
    assert [got.id.tolist() for got in received] == [[], [0], [], [1, 1]]
    assert all(len(got) == 0 for got in sent([stats([])] * 3, 2))


def test_what_a_nan_says_is_brought_home_as_well():
    mine = stats([3])
    mine.loss[:] = np.nan
    (got,) = sent([mine], 4)
    assert np.isnan(got.loss).tolist() == [True]


@given(st.integers(1, 4))
def test_the_ledgers_of_all_ranks_have_the_latest_statistics_of_their_samples(n_ranks):
    n = 20
    homes, last, wide = Homes(n, n_ranks), n_ranks - 1, (np.dtype((np.float32, 3)), 0)
    passes = {rank: stats(range(n), np.arange(rank * n, (rank + 1) * n)) for rank in range(n_ranks)}

    def ledger_on(comm):
        ledger = Ledger.unseen(n, *homes.rows(comm.rank), {"clock": (np.float64, np.nan), "p": wide})
        clock = passes[comm.rank].extra["clock"] + comm.rank
        p = np.stack([clock, -clock, clock + 1], axis=1).astype(np.float32)
        return bring_home(passes[comm.rank].with_extra(clock=clock, p=p), ledger, homes, comm, Epoch(4, 9, 0))

    for ledger in run_in_threads(n_ranks, ledger_on):
        assert ledger.seen_epoch.tolist() == [4] * len(ledger)
        assert ledger.loss.tolist() == ledger.id.tolist()
        assert ledger.extra["clock"].tolist() == (ledger.id * 3.0 + last).tolist()
        assert ledger.extra["p"].tolist() == [[c, -c, c + 1] for c in ledger.extra["clock"]]
