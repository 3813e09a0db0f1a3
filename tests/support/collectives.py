"""Every collective of a Comm against numpy, on the ranks that share it."""

import numpy as np

from kakurenbo_hpc.distributed.comm import Comm
from kakurenbo_hpc.errors import JobError, UserError


def check_collectives(comm: Comm) -> None:
    """Fail on the ranks where a collective does not give numpy's answer."""
    rank, size = comm.rank, comm.size
    everyone = [np.random.default_rng(r) for r in range(size)]

    for dtype in (np.int64, np.float64, np.int32, np.float32, np.uint32, np.uint64):
        least = 0 if np.dtype(dtype).kind == "u" else -9
        drawn = [g.integers(least, 9, (3, 2)).astype(dtype) for g in everyone]
        for name in ("sum", "min", "max"):
            got, want = getattr(comm, name)(drawn[rank]), getattr(np, name)(drawn, axis=0)
            assert got.dtype == dtype and got.shape == (3, 2) and (got == want).all(), (name, dtype)
        before = comm.exscan(drawn[rank])
        assert (before == np.sum(drawn[:rank], axis=0, dtype=dtype)).all() and before.shape == (3, 2)

    assert comm.sum(np.array([2**62, -1]))[0] == (2**62 * size + 2**63) % 2**64 - 2**63, (
        "integers wrap as numpy's do"
    )
    assert comm.gather((rank, "x" * rank)) == [(r, "x" * r) for r in range(size)]
    assert comm.broadcast(("from", rank), root=size - 1) == ("from", size - 1)

    row = np.dtype([("id", np.int64), ("loss", np.float32), ("correct", bool)])
    for kind in (np.dtype(np.int64), row, np.dtype((np.uint16, ()))):

        def part(source: int, target: int, kind=kind) -> np.ndarray:
            made = np.zeros((source * 3 + target) % 4, kind)  # of length 0 too
            made[kind.names[0] if kind.names else slice(None)] = 2**33 % 65521 + 100 * source + target
            return made

        got = comm.alltoallv([part(rank, target) for target in range(size)])
        assert len(got) == size
        for source, arrived in enumerate(got):
            assert arrived.dtype == kind and (arrived == part(source, rank)).all(), (kind, source)
    nothing = comm.alltoallv([np.zeros((0, 2), np.float32)] * size)
    assert all(p.shape == (0, 2) for p in nothing)

    counts = [[(3 * source + target) % 4 for target in range(size)] for source in range(size)]
    rows, n_received = comm.exchange(np.arange(sum(counts[rank])) + 100 * rank, np.array(counts[rank]))
    want = [np.arange(n[rank]) + sum(n[:rank]) + 100 * source for source, n in enumerate(counts)]
    assert rows.tolist() == np.concatenate(want).tolist()
    assert n_received.tolist() == [n[rank] for n in counts]

    gathered = comm.allgather(np.full((rank % 3, 2), rank, np.int32))
    assert gathered.dtype == np.int32 and gathered.shape[1:] == (2,)
    assert gathered[:, 0].tolist() == [r for r in range(size) for _ in range(r % 3)]
    assert comm.collect(("rank", rank)) == ([] if rank else [("rank", r) for r in range(size)])

    posted = comm.post_max(10 * rank)
    comm.sum(np.ones(1))  # other calls may pass while it is under way
    assert posted.wait() == 10 * (size - 1)

    letters = {
        (source, n): np.arange(2**20 * (n == 2) + n, dtype=np.uint8) + source
        for source in range(size)
        for n in range(3)
    }
    under_way = [comm.post_send(letters[rank, n], to) for n in range(3) for to in range(size) if to != rank]
    arrived = {
        (source, n): np.zeros_like(letters[source, n])
        for source in range(size)
        if source != rank
        for n in range(3)
    }
    under_way += [comm.post_receive(arrived[source, n], source) for source, n in arrived]
    assert all(transfer.done() in (True, False) for transfer in under_way)
    comm.sum(np.ones(1))
    for transfer in under_way:
        transfer.wait()
        assert transfer.done()
    assert all((arrived[name] == letters[name]).all() for name in arrived)

    assert comm.on_rank_zero(lambda: "read once") == "read once"

    def only_last_finds_it() -> None:
        if rank == size - 1:
            raise JobError("found on the last rank")

    try:
        comm.run_or_raise_together(only_last_finds_it)
        raise AssertionError("nobody raised")
    except UserError as problem:
        assert str(problem) == "found on the last rank" and problem.on_all_ranks
    comm.barrier()
