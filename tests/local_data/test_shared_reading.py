"""Staging by exchange: every rank gets what it lacks, and the shared file system is read once, evenly."""

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kakurenbo_hpc.data import retry as patience
from kakurenbo_hpc.data.dataset import SampleFiles
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.distributed.world import World
from kakurenbo_hpc.errors import DataError
from kakurenbo_hpc.local_data import node_cache, shared_reading, staging
from kakurenbo_hpc.local_data.node_cache import NodeCache
from kakurenbo_hpc.local_data.shared_reading import Traffic, deal_reading, foreign_bytes
from kakurenbo_hpc.local_data.staging import Part, fetch_missing

N = 12


def shared(folder):
    """Write twelve files of 100, 200, ... bytes, as if on a shared file system."""
    names = [f"train/{number}.h5" for number in range(N)]
    (folder / "shared" / "train").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (folder / "shared" / name).write_bytes(bytes([number]) * 100 * (number + 1))
    changed = [(folder / "shared" / name).stat().st_mtime_ns for name in names]
    return SampleFiles(folder / "shared", names, np.arange(1, N + 1) * 100, np.array(changed))


def fetched(comm, folder, files, rows, store=None, **options):
    """Fetch rows into this rank's cache, on a node of its own."""
    store = store or NodeCache(folder / f"rank_{comm.rank}", "cyclones")
    store.keep([files.names[row] for row in rows], files.names)
    world = World(comm, f"node{comm.rank}", 0, 1, torch.device("cpu"))
    return fetch_missing([Part(files, rows)], store, world, lambda items, n, label: items, **options)


def held(folder, rank):
    """Return the numbers of the files of a rank's cache, which are whole and as old as the shared ones."""
    numbers = []
    for path in (folder / f"rank_{rank}").rglob("*.h5*"):
        original = folder / "shared" / "train" / path.name
        assert path.read_bytes() == original.read_bytes()
        assert path.stat().st_mtime_ns == original.stat().st_mtime_ns
        numbers.append(int(path.stem))
    return sorted(numbers)


@pytest.fixture
def reads(monkeypatch):
    """Note every file that is read from the shared file system."""
    noted, copy = [], node_cache._copy_contents
    monkeypatch.setattr(
        node_cache, "_copy_contents", lambda source, target: noted.append(source.name) or copy(source, target)
    )
    return noted


@pytest.mark.ranks(3)
def test_what_several_nodes_want_is_read_once(comm, tmp_path, reads, monkeypatch):
    """Real ranks, each on a node of its own; three rounds of reading and sending, then nothing is lacking."""
    monkeypatch.setattr(shared_reading, "ROUND", 1000)
    files = comm.on_rank_zero(lambda: shared(tmp_path))
    rows = [*range(0, N, 2), *range(comm.rank, N, 3)]
    traffic = fetched(comm, tmp_path, files, sorted(set(rows)), exchange=True)
    assert held(tmp_path, comm.rank) == sorted(set(rows))
    read = [name for names in comm.gather(reads) for name in names]
    assert sorted(read) == sorted({name for name in read}) and len(read) == N
    assert traffic.read == files.sizes.sum() and traffic.copied > traffic.read
    assert traffic.copied - traffic.read <= traffic.sent < traffic.copied
    assert traffic.read_s > 0 and traffic.sent_s > 0
    mine = sum(int(name[:-3]) * 100 + 100 for name in reads)
    assert abs(mine - files.sizes.sum() / 3) <= files.sizes.max()
    assert fetched(comm, tmp_path, files, sorted(set(rows)), exchange=True) == Traffic()


def test_all_refill_the_disk_of_a_rank_that_was_replaced(tmp_path, reads):
    files = shared(tmp_path)

    def work(comm):
        lost = list(range(N)) if comm.rank == 1 else []
        return fetched(comm, tmp_path, files, lost, exchange=True)

    traffic = run_in_threads(4, work)[0]
    assert [held(tmp_path, rank) for rank in range(4)] == [[], list(range(N)), [], []]
    assert len(reads) == N and traffic.read == traffic.copied == files.sizes.sum()
    assert 0.6 < traffic.sent / traffic.read < 0.9, "three quarters were read by others"


def test_what_the_reader_holds_already_is_sent_and_stays(tmp_path, reads):
    files = shared(tmp_path)
    run_in_threads(2, lambda comm: fetched(comm, tmp_path, files, [range(N), []][comm.rank]))
    reads.clear()
    run_in_threads(2, lambda comm: fetched(comm, tmp_path, files, range(N), exchange=True))
    assert [held(tmp_path, rank) for rank in range(2)] == [list(range(N))] * 2
    assert len(reads) < N, "half of them came from the other rank's cache"


def test_an_interrupted_staging_goes_on(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(patience, "PAUSES", (0.01,))
    monkeypatch.setattr(shared_reading, "ROUND", 1000)
    files = shared(tmp_path)

    stores = [NodeCache(tmp_path / f"rank_{rank}", "cyclones") for rank in range(2)]

    def work(comm):
        return fetched(comm, tmp_path, files, range(N), stores[comm.rank], exchange=True)

    away = (files.root / "train/9.h5").rename(tmp_path / "away")
    with pytest.raises(DataError, match="9.h5: cannot be copied to .*No such file") as raised:
        run_in_threads(2, work)
    assert raised.value.on_all_ranks
    away.rename(files.root / "train/9.h5")
    (tmp_path / "rank_1" / "train" / "11.h5.part").write_bytes(b"half")
    os.truncate(tmp_path / "rank_0" / "train" / "0.h5", 50)
    reads.clear()
    run_in_threads(2, work)
    assert [held(tmp_path, rank) for rank in range(2)] == [list(range(N))] * 2
    assert 0 < len(set(reads)) == len(reads) < N, "what was there was not read again"


def test_a_disk_needs_room_for_what_it_passes_on(tmp_path, monkeypatch):
    files = shared(tmp_path)
    monkeypatch.setattr(staging, "free_bytes", lambda folder: (7, 1999))
    lost = {1: range(N)}
    with pytest.raises(DataError, match=r"on node0: 0 bytes must be copied there, and \d.* kB must be left"):
        run_in_threads(2, lambda comm: fetched(comm, tmp_path, files, lost.get(comm.rank, []), exchange=True))


@settings(max_examples=60)
@given(
    wants=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), max_size=80, unique=True),
    sizes=st.lists(st.integers(1, 50), min_size=31, max_size=31),
)
def test_reading_is_dealt_once_and_evenly(wants, sizes):
    row, rank = np.array(wants, np.int64).reshape(-1, 2).T
    sizes, n_ranks = np.array(sizes), 6
    deal = deal_reading(row, rank, sizes, n_ranks)
    assert sorted(zip(deal.row.tolist(), deal.rank.tolist())) == sorted(wants)
    readers = {r: set(deal.reader[deal.row == r].tolist()) for r in set(row.tolist())}
    assert all(len(found) == 1 for found in readers.values())
    loads = np.zeros(n_ranks, int)
    for r, [reader] in readers.items():
        loads[reader] += sizes[r]
    assert loads.max() <= -(-loads.sum() // n_ranks) + 50
    held = [
        sum(sizes[r] for r in readers if readers[r] == {n} and (r, n) not in wants) for n in range(n_ranks)
    ]
    assert [foreign_bytes(SampleFiles(None, [], sizes, sizes), deal, n) for n in range(n_ranks)] == held


def test_what_was_read_and_sent_is_told():
    assert str(Traffic(5, 4 * 10**9, 2.0, 10**6, 0.01)) == (
        "4 GB read from the shared file system at 2 GB/s, 1 MB sent between ranks at 0.1 GB/s"
    )
    assert str(Traffic()) == ""
