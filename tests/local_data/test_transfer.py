"""Files that change their rank arrive whole, whatever goes where, with few pieces in memory, and nobody waits
for ever.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.errors import DataError
from kakurenbo_hpc.local_data import transfer as delivery
from kakurenbo_hpc.local_data.node_cache import NodeCache
from kakurenbo_hpc.local_data.transfer import FileExchange, FileMove


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(delivery, "PIECE", 100)


def content(number, size):
    return np.random.default_rng(number).integers(0, 256, size, np.uint8).tobytes()


def delivered(folder, n_ranks, moves, steps):
    """Send files as moves (size, source, target) say, going on so many times before the end; return the
    stores.
    """
    stores = [NodeCache(folder / f"rank_{rank}", "some data") for rank in range(n_ranks)]
    for number, (size, source, _) in enumerate(moves):
        name = f"deep/{number}.h5"
        stores[source].partial_path(name).write_bytes(content(number, size))
        stores[source].commit(name, number)

    def work(comm):
        going = [
            FileMove(n, f"deep/{n}.h5", size, n, to)
            for n, (size, at, to) in enumerate(moves)
            if at == comm.rank
        ]
        coming = [
            FileMove(n, f"deep/{n}.h5", size, n, at)
            for n, (size, at, to) in enumerate(moves)
            if to == comm.rank
        ]
        under_way = FileExchange(going, coming, stores[comm.rank], comm)
        for _ in range(steps):
            under_way.poll()
        under_way.finish()

    run_in_threads(n_ranks, work)
    return stores


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), n_ranks=st.integers(2, 6), steps=st.integers(0, 5))
def test_every_file_arrives_whole(data, n_ranks, steps, tmp_path_factory):
    pairs = st.tuples(
        st.sampled_from([0, 1, 99, 100, 101, 1000]), st.integers(0, n_ranks - 1), st.integers(1, n_ranks - 1)
    )
    moves = [(size, at, (at + on) % n_ranks) for size, at, on in data.draw(st.lists(pairs, max_size=25))]
    stores = delivered(tmp_path_factory.mktemp("stores"), n_ranks, moves, steps)
    for number, (size, source, target) in enumerate(moves):
        for rank in (source, target):
            path = stores[rank].folder / f"deep/{number}.h5"
            assert path.read_bytes() == content(number, size) and path.stat().st_mtime_ns == number
    assert not list(stores[0].folder.parent.rglob("*.part"))


def test_a_circle_of_ranks_that_send_much_does_not_stand_still(tmp_path):
    moves = [(1000, at, (at + on) % 4) for on in (1, 2, 3) for at in range(4) for _ in range(5)]
    delivered(tmp_path, 4, moves, steps=0)


def test_a_file_that_vanished_is_named(tmp_path):
    store = NodeCache(tmp_path / "rank_0", "some data")

    def work(comm):
        if comm.rank == 0:
            FileExchange([FileMove(0, "gone.h5", 10, 0, 1)], [], store, comm).finish()

    with pytest.raises(DataError, match=r"gone\.h5: cannot be read \(No such file or directory\)"):
        run_in_threads(2, work)
