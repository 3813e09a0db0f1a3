"""Planning of one epoch on the ranks that are here, without torch: identical results, counts, memory, time.

    mpirun -n 4 python scripts/scaling_ranks.py 1281167,10000000 answer.json

``bench_scaling.py`` starts it. Rank 0 writes what all ranks found, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from counted_comm import Call, Counted, Simulated

from kakurenbo_hpc.core.ledger import Homes, Ledger
from kakurenbo_hpc.core.plan import Epoch, Plan
from kakurenbo_hpc.core.rng import bits, key, uniform
from kakurenbo_hpc.core.sample_stats import SampleStats
from kakurenbo_hpc.distributed.comm import Comm
from kakurenbo_hpc.local_data.exchange import first_places, plan_exchange
from kakurenbo_hpc.order.deal import EpochSchedule, deal
from kakurenbo_hpc.order.home import bring_home, send_home
from kakurenbo_hpc.selection.global_stats import GlobalStats
from kakurenbo_hpc.selection.methods.kakurenbo import Kakurenbo

EPOCH = Epoch(31, 90, 1)
GLOBAL_BATCH = 256  # far more steps than ranks, so that every rank has entries for every other
METHOD = Kakurenbo(method="kakurenbo")
STAGES = ("plan", "deal", "home", "exchange")
MOST_OF_AUTHORS = 16  # ranks on which their way runs: each holds all N samples


def made_losses(ids: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return loss, correct and confidence of samples in an epoch, each a function of the id alone."""
    loss = -np.log1p(-uniform(key(1, "loss", epoch), ids)).astype(np.float32)
    probability = np.exp(-loss)
    return (
        loss,
        uniform(key(1, "correct", epoch), ids) < probability,
        np.maximum(probability, 1 - probability),
    )


def made_ledger(n: int, start: int, stop: int) -> Ledger:
    """Return the rows of some samples, all seen in the epoch before."""
    seen = np.full(stop - start, EPOCH.number - 1, np.int32)
    return Ledger(n, start, *made_losses(np.arange(start, stop), EPOCH.number - 1), seen)


def make_plan(ledger: Ledger, comm: Comm) -> Plan:
    return METHOD.plan(EPOCH, ledger, GlobalStats(comm))


def deal_all(ledger: Ledger, plan: Plan, comm: Comm) -> list[EpochSchedule]:
    """Deal the training pass and the refresh pass."""
    return [deal(ledger.rows, rows, EPOCH, comm, GLOBAL_BATCH) for rows in (plan.train, plan.refresh)]


def results_of(schedule: EpochSchedule) -> SampleStats:
    """Return what a pass over a rank's entries finds."""
    position = np.arange(schedule.n) if schedule.position is None else schedule.position
    loss, correct, confidence = made_losses(schedule.id, EPOCH.number)
    return SampleStats(schedule.id, loss, correct, confidence, position)


def digest_of(ledger: Ledger, hidden: np.ndarray, comm: Comm) -> list[int]:
    """Return sums over all rows that change with any hidden sample and with any value of the ledger."""
    mixed = bits(key(1, "digest"), ledger.id)
    values = ledger.loss.view(np.uint32).astype(np.uint64) * np.uint64(2) + ledger.correct
    sums = [mixed[hidden].sum(dtype=np.uint64), (mixed * (values | np.uint64(1))).sum(dtype=np.uint64)]
    return [int(s) for s in comm.sum(np.array(sums, np.uint64))]


class Measured:
    """Counts, and seconds of this rank by stage: of its own work, of the processor, by the clock."""

    def __init__(self, comm: Comm):
        self._comm, self.calls, self.seconds = comm, dict[str, list[Call]](), dict[str, list[float]]()

    def __call__(self, stage: str, work: Callable[[Comm], object]) -> object:
        counted = Counted(self._comm)
        self._comm.barrier()
        wall, own = time.perf_counter(), time.process_time()
        found = work(counted)
        own_s = time.process_time() - own
        self.seconds[stage] = [own_s - counted.inside_s, own_s, time.perf_counter() - wall]
        self.calls[stage] = counted.calls
        return found

    def of_all_ranks(self) -> dict[str, dict]:
        """Return for each stage the largest times, and its calls: bytes of all ranks, messages of one."""
        found = {}
        for stage, calls in self.calls.items():
            n_bytes = self._comm.sum(np.array([call.n_bytes for call in calls], np.int64))
            messages = self._comm.max(np.array([call.messages for call in calls], np.int64))
            own_s, cpu_s, wall_s = self._comm.max(np.array(self.seconds[stage])).tolist()
            found[stage] = {
                "own_s": own_s,
                "cpu_s": cpu_s,
                "wall_s": wall_s,
                "calls": [
                    [call.kind, n, m]
                    for call, n, m in zip(calls, n_bytes.tolist(), messages.tolist(), strict=True)
                ],
            }
        return found


def plan_epoch(n: int, comm: Comm) -> dict:
    """Plan, deal, bring home and balance an epoch of n samples; return what it took and came to."""
    before, homes = forget_peak(), Homes(n, comm.size)
    ledger = made_ledger(n, *homes.rows(comm.rank))
    measured = Measured(comm)
    plan = measured("plan", lambda counted: make_plan(ledger, counted))
    schedules = measured("deal", lambda counted: deal_all(ledger, plan, counted))
    passes = [results_of(schedule) for schedule in schedules]

    def all_home(counted: Comm) -> Ledger:
        after = ledger
        for stats in passes:
            after = bring_home(stats, after, homes, counted, EPOCH)
        return after

    after = measured("home", all_home)
    place = first_places(ledger.id, comm.size)
    balanced = measured(
        "exchange", lambda counted: plan_exchange(ledger.id, place, plan.train, EPOCH, counted)
    )
    n_visible = comm.sum(np.bincount(balanced[plan.train], minlength=comm.size))
    peak = comm.max(np.array([memory_bytes(), memory_bytes() - before])).tolist()
    return {
        "n": n,
        "ranks": comm.size,
        "n_trained": schedules[0].n,
        "digest": [*digest_of(after, ~plan.train, comm), *(schedule.order_hash for schedule in schedules)],
        "balance": int(n_visible.max() - n_visible.min()),
        "stages": measured.of_all_ranks(),
        "peak_bytes": peak[0],
        "grown_bytes": peak[1],
    }


def plan_as_authors(n: int, comm: Comm) -> dict:
    """Plan as the authors' code does: three dense float64 arrays summed over ranks, sorted on every rank."""
    before, (start, stop) = forget_peak(), Homes(n, comm.size).rows(comm.rank)
    dense = np.zeros((3, n))
    for row, column in zip(dense, made_losses(np.arange(start, stop), EPOCH.number - 1), strict=True):
        row[start:stop] = column

    def work(counted: Comm) -> int:
        loss, correct, confidence = (counted.sum(row) for row in dense)
        easy = np.argsort(loss, kind="stable")[: int(METHOD.ceiling_of(EPOCH) * n)]
        return int(np.count_nonzero((correct[easy] == 1) & (confidence[easy] >= METHOD.confidence)))

    measured = Measured(comm)
    n_hidden = measured("authors", work)
    return {"n": n, "ranks": comm.size, "n_hidden": n_hidden, **measured.of_all_ranks()["authors"]} | {
        "grown_bytes": int(comm.max(np.array([memory_bytes() - before]))[0])
    }


def memory_bytes(name: str = "VmHWM") -> int:
    """Return resident memory of this process: the largest since ``forget_peak``, or VmRSS, that of now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))


def forget_peak() -> int:
    """Measure the largest memory from now on; return that of now."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_bytes("VmRSS")


def measure_share(n: int, n_ranks: int, batch_per_rank: int, comm: Comm) -> dict[str, float]:
    """Return the processor seconds of each stage on one of n_ranks simulated ranks, the median of three."""
    global_batch = batch_per_rank * n_ranks
    homes, rank = Homes(n, n_ranks), n_ranks // 2
    start, stop = homes.rows(rank)
    ledger = made_ledger(n, start, stop)
    alone = Ledger(stop - start, 0, ledger.loss, ledger.correct, ledger.confidence, ledger.seen_epoch)
    plan = METHOD.plan(EPOCH, alone, GlobalStats(comm)) if stop > start else None
    trials: dict[str, list[float]] = {stage: [] for stage in STAGES}
    one = Simulated(rank, n_ranks)
    train = plan.train if plan else np.zeros(0, bool)
    stats = SampleStats(ledger.id, ledger.loss, ledger.correct, ledger.confidence, ledger.id)
    # Results are of samples from anywhere; what comes back to a rank is of its own.
    anywhere = SampleStats(
        (bits(key(1, "anywhere"), ledger.id) % np.uint64(n)).astype(np.int64),
        *list(vars(stats).values())[1:5],
    )
    works = {
        "plan": lambda: plan and METHOD.plan(EPOCH, alone, GlobalStats(comm)),
        "deal": lambda: [deal(ledger.rows, rows, EPOCH, one, global_batch) for rows in (train, ~train)],
        "home": lambda: [send_home(anywhere, homes, one), ledger.update(stats, EPOCH.number)],
        "exchange": lambda: plan_exchange(ledger.id, first_places(ledger.id, n_ranks), train, EPOCH, one),
    }
    for _ in range(3):
        for stage, work in works.items():
            begun = time.process_time()
            work()
            trials[stage].append(time.process_time() - begun)
    return {stage: float(np.median(seconds)) for stage, seconds in trials.items()}


def measure_network(comm: Comm) -> list[float]:
    """Return seconds of the shortest message, and bytes per second, between two ranks."""

    def took(n_bytes: int) -> float:
        array, seconds = np.zeros(n_bytes // 8), []
        for _ in range(50):
            begun = time.perf_counter()
            comm.sum(array)
            seconds.append(time.perf_counter() - begun)
        return float(np.median(seconds)) / 2  # to the other rank and back

    short, long = took(8), took(1 << 22)
    return [short, (1 << 22) / max(long - short, 1e-9)]


def main(sizes: list[int], answer: Path) -> None:
    from kakurenbo_hpc.distributed.comm_mpi import MpiComm

    comm = MpiComm()
    found: dict[str, list[dict]] = {"ours": [], "two_hops": [], "authors": []}
    base = int(comm.max(np.array([memory_bytes()]))[0])
    for n in sizes:
        found["ours"].append(plan_epoch(n, comm))
        if comm.size >= 16:
            found["two_hops"].append(plan_epoch(n, MpiComm(two_hops_from=16)))
    if comm.size <= MOST_OF_AUTHORS:
        found["authors"] = [plan_as_authors(n, comm) for n in sizes]
    network = measure_network(comm) if comm.size == 2 else None
    if comm.rank == 0:
        answer.write_text(json.dumps(found | {"base_bytes": base, "network": network}))
    comm.close()


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1].split(",")], Path(sys.argv[2]))
