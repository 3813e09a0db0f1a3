"""What it is worth to start ranks from a copy of the environment on the node's disk (``stage_environment``).

    python scripts/bench_environment.py [--ranks 2,4] [--open-ms 10] [--trials 3]

Real ranks of mpirun, all on this machine, import torch, torchvision, mpi4py and h5py: from the environment,
as if it were on a shared file system that is throttled, and from its copy. Throttled means: each file of the
environment that Python opens, and each folder that it lists, takes so many milliseconds longer, as on a
metadata server with many ranks (one that answers 5,000 calls a second lets each of 50 ranks wait 10 ms).
Shared libraries, looks for files that are not there, the standard library and the archive are not slowed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench_common import _mpirun, environment, header, median, say, spread

from kakurenbo_hpc.cluster.machine import Machine
from kakurenbo_hpc.cluster.stage_environment import pack_environment, staged_command

LIBRARIES = ("torch", "torchvision", "mpi4py", "h5py")
IMPORTS = """
import os, sys, time
prefix, delay_s, calls = sys.argv[1], float(sys.argv[2]), 0
def slow(event, given):
    global calls
    if event in ("open", "os.listdir") and isinstance(given[0], str) and given[0].startswith(prefix):
        calls += 1
        time.sleep(delay_s)
sys.addaudithook(slow)
import torch, torchvision, h5py
from mpi4py import MPI
MPI.COMM_WORLD.Barrier()
if MPI.COMM_WORLD.rank == 0:
    print("READY", calls, flush=True)
"""


class Start(NamedTuple):
    """Seconds from the start of mpirun to its end, and the slowed calls of rank 0."""

    seconds: float
    n_calls: int


def start(n_ranks: int, machine: Machine, delay_s: float) -> Start:
    """Start ranks that import, and wait for them."""
    program = [sys.executable, "-c", IMPORTS, f"{sys.prefix}/", str(delay_s)]
    command = [*_mpirun(n_ranks), *staged_command(machine, program)]
    begun = time.perf_counter()
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    seconds, ready = time.perf_counter() - begun, re.search(r"READY (\d+)", done.stdout)
    if ready is None or "warning: " in done.stdout:
        sys.exit(f"ended with code {done.returncode}:\n{done.stdout}{done.stderr}")
    return Start(seconds, int(ready[1]))


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = lambda text: [int(word) for word in text.split(",")]  # noqa: E731
    parser.add_argument("--ranks", type=numbers, default=[2, 4], help="of mpirun (default: 2,4)")
    parser.add_argument("--open-ms", type=float, default=10, help="of each call (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=3, help="default: %(default)s")
    given = parser.parse_args(words)
    plain = Machine(name="here", starter="mpirun")
    with tempfile.TemporaryDirectory() as folder:
        staged = plain.model_copy(update={"stage_environment": folder})
        begun = time.perf_counter()
        if pack_environment(staged).stage_environment is None:
            sys.exit("the environment cannot be packed")
        pack_s = time.perf_counter() - begun
        archive = Path(staged_command(staged, [])[4])
        size = archive.stat().st_size / 1e9
        say(f"packed in {pack_s:.0f} s; the first start unpacks ...")
        first = start(given.ranks[0], staged, given.open_ms / 1e3)
        lines, ratios = [], []
        for n in given.ranks:
            shared, copy = [], []
            for trial in range(given.trials + 1):
                shared.append(start(n, plain, given.open_ms / 1e3))
                copy.append(start(n, staged, given.open_ms / 1e3))
                say(f"{n} ranks, trial {trial}: {shared[-1].seconds:.1f} s, copy {copy[-1].seconds:.1f} s")
            shared, copy = shared[1:], copy[1:]
            ratios = [slow.seconds / quick.seconds for slow, quick in zip(shared, copy, strict=True)]
            lines += [
                f"  {n} ranks: {spread(ratios, 2)} times as fast from the copy",
                f"    from the environment {spread([one.seconds for one in shared], 2)} s, "
                f"{shared[0].n_calls} calls of a rank slowed",
                f"    from its copy        {spread([one.seconds for one in copy], 2)} s, "
                f"{copy[0].n_calls} calls of a rank slowed",
            ]
        archive.unlink()
    unpack_s = first.seconds - median(one.seconds for one in copy)
    print(
        "\n".join(
            [
                f"result:    throttled, {given.open_ms:g} ms for each file opened: {given.ranks[-1]} ranks "
                f"start {spread(ratios, 2)} times as fast from the copy; packing {pack_s:.0f} s once, "
                f"unpacking {unpack_s:.0f} s a node, for {size:.1f} GB",
                header(
                    LIBRARIES, f"{given.trials} of each way, in turn, after one to warm up; unpacked once"
                ),
                f"ranks:     on one node, {os.uname().nodename}",
                *lines,
            ]
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
