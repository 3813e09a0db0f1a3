"""What it is worth that ranks with node-local data even out their visible samples after each plan, and what
it costs.

    python scripts/bench_exchange.py [--ranks 64,128,256,512,1024] [--files 8] [--scratch DIR]

First part, simulated ranks, each a thread with 119 samples (DeepCAM's 121,852 on 1,024): KAKURENBO hides up
to 30 % of them on made losses. One sample a rank and step, as in the paper: without balance an epoch has as
many steps as the fullest rank has visible samples, with it as many as the mean, rounded up. Second part, real
ranks of mpirun: files of DeepCAM's size go from disk to disk through MPI, all ranks sending and receiving at
once, beside a plain copy of as many by each rank.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
from bench_common import LEAST_TRIALS, header, median, on_ranks, say, spread

from kakurenbo_hpc.core.ledger import Homes, Ledger
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.distributed.comm import Comm, SerialComm
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.distributed.launch_env import read_launch_env
from kakurenbo_hpc.distributed.world import open_comm
from kakurenbo_hpc.local_data.exchange import first_places, plan_exchange
from kakurenbo_hpc.local_data.node_cache import NodeCache
from kakurenbo_hpc.local_data.transfer import FileExchange, FileMove
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.selection.global_stats import GlobalStats

PER_RANK = 119
SAMPLE_MB = 56.6  # 768 x 1152 x 16 float32; with its labels a file has 60 MB
EPOCHS = 8  # the first hides nothing


def visible_samples(n: int, max_fraction: float) -> list[np.ndarray]:
    """Return (n,) bool of each epoch: whom KAKURENBO trains, on losses that fall, of samples that are easy or
    hard throughout.

    Hardness is lognormal, and alike in files that follow each other, as in weather of one week; each epoch
    adds its noise.
    """
    rng = np.random.default_rng(0)
    season = np.convolve(rng.standard_normal(n + 49), np.ones(50) / np.sqrt(50), mode="valid")
    hardness = np.exp(0.7 * season + 0.7 * rng.standard_normal(n) - 1)
    method = METHODS["kakurenbo"](method="kakurenbo", max_fraction=max_fraction)
    ledger, shown = Ledger.unseen(n, 0, n), []
    for number in range(EPOCHS):
        shown.append(method.plan(Epoch(number, EPOCHS, 0), ledger, GlobalStats(SerialComm())).train)
        loss = (hardness * 0.8**number * np.exp(0.3 * rng.standard_normal(n))).astype(np.float32)
        confidence = np.exp(-loss)
        ledger = Ledger(n, 0, loss, confidence > 0.5, confidence, np.full(n, number, np.int32))
    return shown[1:]


class Replayed(SerialComm):
    """One rank among many whose collectives answer at once, with what they answered before: what is left is
    its own work.
    """

    def __init__(self, comm: Comm):
        self.rank, self.size, self._comm, self._answers, self._next = comm.rank, comm.size, comm, [], 0

    def sum(self, array: np.ndarray) -> np.ndarray:
        return self._answer(self._comm.sum, array)

    def exscan(self, array: np.ndarray) -> np.ndarray:
        return self._answer(self._comm.exscan, array)

    def _answer(self, ask, array: np.ndarray) -> np.ndarray:
        if self._next == len(self._answers):
            self._answers.append(ask(array))
        self._next += 1
        return self._answers[self._next - 1]

    def again(self, work: Callable[[Comm], object]) -> float:
        """Return how many seconds the same work takes again."""
        self._next, begun = 0, perf_counter()
        work(self)
        return perf_counter() - begun

    @property
    def n_calls(self) -> int:
        return len(self._answers)


def simulate(n_ranks: int, max_fraction: float, share: float, n_trials: int) -> dict:
    """Return what balance did in each epoch, on so many ranks."""
    n = PER_RANK * n_ranks
    homes, place = Homes(n, n_ranks), first_places(np.arange(n), n_ranks)
    rows = [slice(*homes.rows(rank)) for rank in range(n_ranks)]
    found = {"ranks": n_ranks, "epochs": []}
    for number, shown in enumerate(visible_samples(n, max_fraction)):

        def decide(comm: Comm) -> np.ndarray:
            mine = rows[comm.rank]
            return plan_exchange(
                np.arange(n)[mine], place[mine], shown[mine], Epoch(number, EPOCHS, 0), comm, share
            )  # noqa: B023

        def work(comm: Comm) -> tuple[np.ndarray, Replayed]:
            replayed = Replayed(comm)
            return decide(replayed), replayed

        results = run_in_threads(n_ranks, work)
        after, alone = np.concatenate([after for after, _ in results]), results[0][1]
        if number == 0:
            found |= {"seconds": [alone.again(decide) for _ in range(n_trials)], "calls": alone.n_calls}
        moved = after != place
        found["epochs"].append(
            {
                "hidden": 1 - float(shown.mean()),
                "without": int(np.bincount(first_places(np.arange(n), n_ranks)[shown]).max()),
                "in_blocks": int(np.add.reduceat(shown, [s.start for s in rows]).max()),
                "with": int(np.bincount(after[shown], minlength=n_ranks).max()),
                "moved": int(moved[shown].sum()),
                "moved_hidden": int(moved[~shown].sum()),
                "most_in": int(np.bincount(after[moved], minlength=n_ranks).max()),
                "held": int(np.bincount(after, minlength=n_ranks).max()),
            }
        )
        place = after
    return found


def deliver(folder: str, n_files: int, n_bytes: int, n_trials: int, answer: str) -> None:
    """Measure, on these ranks, files from store to store beside copies; rank 0 writes the seconds of the
    slowest rank.
    """
    comm = open_comm()
    store = NodeCache(Path(folder) / f"rank_{comm.rank}", "bench")
    for i in range(n_files):
        store.partial_path(f"mine_{i}").write_bytes(np.random.default_rng(i).bytes(n_bytes))
        store.commit(f"mine_{i}", 0)
    to, source = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size

    def by_mpi() -> None:
        for i in range(n_files):
            (store.folder / f"mine_{i}").replace(store.folder / f"from_{comm.rank}_{i}")
        outgoing = [
            FileMove(i * comm.size + comm.rank, f"from_{comm.rank}_{i}", n_bytes, 0, to)
            for i in range(n_files)
        ]
        incoming = [
            FileMove(i * comm.size + source, f"from_{source}_{i}", n_bytes, 0, source) for i in range(n_files)
        ]
        comm.barrier()
        seconds.append(took(lambda: FileExchange(outgoing, incoming, store, comm).finish()))
        for i in range(n_files):
            (store.folder / f"from_{comm.rank}_{i}").replace(store.folder / f"mine_{i}")
            (store.folder / f"from_{source}_{i}").unlink()

    def by_copy() -> None:
        comm.barrier()
        pairs = [(store.folder / f"mine_{i}", store.folder / f"copy_{i}") for i in range(n_files)]
        seconds.append(took(lambda: [shutil.copyfile(*pair) for pair in pairs]))
        for i in range(n_files):
            (store.folder / f"copy_{i}").unlink()

    def took(work) -> float:
        begun = perf_counter()
        work()
        return float(comm.max(np.array([perf_counter() - begun]))[0])

    ways = {"mpi": by_mpi, "copy": by_copy}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for trial in range(n_trials + 1):
        for name, way in ways.items():
            seconds: list[float] = []
            way()
            found[name] += seconds if trial else []
    if comm.rank == 0:
        Path(answer).write_text(json.dumps(found))
    comm.close()


def report(simulated: list[dict], delivered: dict[int, dict], given: argparse.Namespace) -> str:
    most = simulated[-1]
    steps = {
        name: float(np.mean([epoch[name] for epoch in most["epochs"]]))
        for name in ("without", "in_blocks", "with")
    }
    lines = [
        f"result:    {most['ranks']:,} ranks: {steps['with']:.1f} steps an epoch with balance, "
        f"{steps['without']:.1f} without "
        f"({steps['without'] / steps['with'] - 1:.0%} more), {steps['in_blocks']:.1f} with files in order "
        "of time",
        header(
            ("numpy", "mpi4py"),
            f"{given.trials} of each way, in turn; the mean of {EPOCHS - 1} epochs with hidden samples",
        ),
        f"data:      {PER_RANK} samples a rank, F = {given.fraction}, exchange share {given.share}; made "
        "losses, alike in time",
        "",
        "               steps an epoch          moved an epoch                 most a rank        the "
        "decision",
        " ranks  F*   with without in blocks  samples   share   hidden      GB  gets     holds  ms of one "
        "rank, reductions",
    ]
    for one in simulated:
        mean = {name: float(np.mean([epoch[name] for epoch in one["epochs"]])) for name in one["epochs"][0]}
        n = PER_RANK * one["ranks"]
        held = max(epoch["held"] for epoch in one["epochs"])
        lines.append(
            f"{one['ranks']:>6,} {mean['hidden']:.2f} {mean['with']:>6.1f} {mean['without']:>7.1f} "
            f"{mean['in_blocks']:>9.1f} "
            f"{mean['moved']:>8.0f} {mean['moved'] / n:>7.1%} {mean['moved_hidden']:>8.1f} "
            f"{mean['moved'] * SAMPLE_MB / 1e3:>7.0f} "
            f"{max(epoch['most_in'] for epoch in one['epochs']):>5} {held:>4} ({held / PER_RANK:.2f}) "
            f"{1e3 * median(one['seconds']):>8.2f}, {one['calls']} of {8 * one['ranks']:,} bytes"
        )
    lines += [
        "",
        f"real files of {given.mb} MB, {given.files} from each rank to the next at once; MB/s of all ranks "
        "together",
    ]
    for n, found in delivered.items():
        mb, ratios = (
            n * given.files * given.mb,
            [b / a for a, b in zip(found["mpi"], found["copy"], strict=True)],
        )
        lines.append(
            f"  {n} ranks: through MPI {mb / median(found['mpi']):,.0f}, "
            f"a plain copy of as many {mb / median(found['copy']):,.0f}, ratio {spread(ratios, 2)}"
        )
    return "\n".join(lines)


def main(words: Sequence[str]) -> None:
    numbers = lambda text: [int(word) for word in text.split(",")]  # noqa: E731
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ranks",
        type=numbers,
        default=[64, 128, 256, 512, 1024],
        help="simulated (default: 64,128,256,512,1024)",
    )
    parser.add_argument("--fraction", type=float, default=0.3, help="F (default: %(default)s)")
    parser.add_argument("--share", type=float, default=0.0, help="Q (default: %(default)s)")
    parser.add_argument("--real", type=numbers, default=[2, 4], help="ranks of mpirun (default: 2,4)")
    parser.add_argument("--files", type=int, default=8, help="that a rank sends (default: %(default)s)")
    parser.add_argument("--mb", type=float, default=60.2, help="of a file (default: %(default)s)")
    parser.add_argument("--scratch", help="a folder for them (default: one that the system gives)")
    parser.add_argument("--trials", type=int, default=LEAST_TRIALS, help="default: %(default)s")
    given = parser.parse_args(words)
    simulated = []
    for n in given.ranks:
        say(f"simulating {n} ranks ...")
        simulated.append(simulate(n, given.fraction, given.share, given.trials))
    delivered = {}
    for n in given.real:
        say(f"sending files between {n} ranks ...")
        with tempfile.TemporaryDirectory(dir=given.scratch) as folder:
            delivered[n] = on_ranks(n, __file__, [folder, given.files, int(given.mb * 1e6), given.trials])
    print(report(simulated, delivered, given))


if __name__ == "__main__":
    if read_launch_env(os.environ):
        deliver(sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5])
    else:
        main(sys.argv[1:])
