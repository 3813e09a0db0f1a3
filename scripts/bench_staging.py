"""What it is worth to stage by exchange, from a throttled file system.

    python scripts/bench_staging.py [--ranks 2,4] [--files 24] [--mb 8] [--mb-per-s 100]

Real ranks of mpirun, each as if on a node of its own. The shared file system gives each rank so many MB per
second and no more: copying a file from it takes as much longer. Two cases, each with every rank reading what
it lacks and by exchange: the disk of one node is empty, and the others hold their shares (a replaced node);
and all nodes want every file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from bench_common import LEAST_TRIALS, header, median, on_ranks, say, spread

from kakurenbo_hpc.data.dataset import SampleFiles
from kakurenbo_hpc.distributed.launch_env import read_launch_env
from kakurenbo_hpc.distributed.world import World, open_comm
from kakurenbo_hpc.local_data import node_cache
from kakurenbo_hpc.local_data.node_cache import NodeCache
from kakurenbo_hpc.local_data.staging import Part, fetch_missing

CASES = {"one node's disk is empty": "replaced", "all nodes want every file": "everywhere"}


def stage(folder: str, n_files: int, n_bytes: int, mb_per_s: float, n_trials: int, answer: str) -> None:
    """Stage on this rank; rank 0 writes seconds and traffic of each case and way."""
    comm, root = open_comm(), Path(folder) / "shared"
    if comm.rank == 0:
        root.mkdir()
        for number in range(n_files):
            (root / f"{number}.h5").write_bytes(os.urandom(n_bytes))
    comm.barrier()
    names = [f"{number}.h5" for number in range(n_files)]
    changed = np.array([(root / name).stat().st_mtime_ns for name in names])
    files = SampleFiles(root, names, np.full(n_files, n_bytes), changed)
    world = World(comm, f"node{comm.rank}", 0, 1, torch.device("cpu"))
    store = NodeCache(Path(folder) / f"rank_{comm.rank}", "bench")
    _throttle(mb_per_s)
    lacking = {
        "replaced": range(n_files) if comm.rank == comm.size - 1 else range(0),
        "everywhere": range(n_files),
    }
    found: dict[str, list] = {f"{case}, {way}": [] for case in lacking for way in ("each", "exchange")}
    for trial in range(n_trials + 1):
        for case, rows in lacking.items():
            for way in ("each", "exchange"):
                store.keep([], names)
                comm.barrier()
                begun = time.perf_counter()
                traffic = fetch_missing(
                    [Part(files, rows)],
                    store,
                    world,
                    lambda items, n, label: items,
                    exchange=way == "exchange",
                )
                seconds = float(comm.max(np.array([time.perf_counter() - begun]))[0])
                if trial:
                    found[f"{case}, {way}"].append([seconds, traffic.read, traffic.sent, traffic.sent_s])
    if comm.rank == 0:
        Path(answer).write_text(json.dumps(found))
    comm.close()


def _throttle(mb_per_s: float) -> None:
    """Let this rank copy no more bytes a second, whatever the number of its threads."""
    copy, lock = node_cache._copy_contents, threading.Lock()

    def slowly(source: Path, target: Path) -> int:
        with lock:
            begun = time.perf_counter()
            changed = copy(source, target)
            time.sleep(max(0.0, source.stat().st_size / mb_per_s / 1e6 - (time.perf_counter() - begun)))
        return changed

    node_cache._copy_contents = slowly


def report(found: dict[int, dict], given: argparse.Namespace) -> str:
    def times(of_ranks: dict, case: str) -> list[float]:
        pairs = zip(of_ranks[f"{case}, each"], of_ranks[f"{case}, exchange"], strict=True)
        return [each[0] / exchange[0] for each, exchange in pairs]

    most = max(found)
    lines = [
        f"result:    {most} ranks: by exchange {spread(times(found[most], 'replaced'), 2)} times as fast "
        "where one node's disk is empty",
        header(("numpy", "mpi4py"), f"{given.trials} of each way, in turn, after one to warm up"),
        f"data:      {given.files} files of {given.mb:g} MB; the shared file system gives each rank "
        f"{given.mb_per_s:g} MB/s (a sleep after each copy)",
    ]
    for n, of_ranks in found.items():
        for label, case in CASES.items():
            each, exchange = of_ranks[f"{case}, each"], of_ranks[f"{case}, exchange"]
            speed = median(sent / max(seconds, 1e-9) / 1e9 for *_, sent, seconds in exchange)
            lines += [
                f"  {n} ranks, {label}: {spread(times(of_ranks, case), 2)} times as fast by exchange",
                f"    each for itself {median(s for s, *_ in each):.2f} s, {each[0][1] / 1e6:.0f} MB read",
                f"    by exchange {median(s for s, *_ in exchange):.2f} s, {exchange[0][1] / 1e6:.0f} MB "
                f"read, {exchange[0][2] / 1e6:.0f} MB sent at {speed:.2f} GB/s",
            ]
    return "\n".join(lines)


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = lambda text: [int(word) for word in text.split(",")]  # noqa: E731
    parser.add_argument("--ranks", type=numbers, default=[2, 4], help="of mpirun (default: 2,4)")
    parser.add_argument("--files", type=int, default=24, help="default: %(default)s")
    parser.add_argument("--mb", type=float, default=8, help="of a file (default: %(default)s)")
    parser.add_argument("--mb-per-s", type=float, default=100, help="of a rank (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=LEAST_TRIALS, help="default: %(default)s")
    given = parser.parse_args(words)
    found = {}
    for n in given.ranks:
        say(f"staging on {n} ranks ...")
        with tempfile.TemporaryDirectory() as folder:
            words = [folder, given.files, int(given.mb * 1e6), given.mb_per_s, given.trials]
            found[n] = on_ranks(n, __file__, words)
            shutil.rmtree(Path(folder) / "shared")
    print(report(found, given))


if __name__ == "__main__":
    if read_launch_env(os.environ):
        folder, n_files, n_bytes, mb_per_s, n_trials, answer = sys.argv[1:]
        stage(folder, int(n_files), int(n_bytes), float(mb_per_s), int(n_trials), answer)
    else:
        main(sys.argv[1:])
