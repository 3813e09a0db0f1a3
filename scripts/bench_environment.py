"""What it is worth to start ranks from a copy of the environment on the node's disk (``stage_environment``).

    python scripts/bench_environment.py [--ranks 2] [--open-ms 10] [--trials 3]

Real ranks of mpirun, all on this machine, import torch, mpi4py and h5py: from the environment, as if it were
on a shared file system that is throttled, and from its copy. Throttled means: for each file of the
environment that Python opens, and each folder that it lists, so many milliseconds are added to the CPU
seconds of a rank, as on a metadata server with many ranks (one that answers 5,000 calls a second lets each
of 50 ranks wait 10 ms). Nothing is added for shared libraries, looks for files that are not there, the
standard library and the archive.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench_common import _mpirun, environment, header, say, spread

from kakurenbo_hpc.cluster.machine import Machine
from kakurenbo_hpc.cluster.stage_environment import pack_environment, staged_command

LIBRARIES = ("torch", "mpi4py", "h5py")
IMPORTS = """
import sys, time
calls = 0
def count(event, given):
    global calls
    if event in ("open", "os.listdir") and isinstance(given[0], str) and given[0].startswith(sys.argv[1]):
        calls += 1
sys.addaudithook(count)
import torch, h5py
from mpi4py import MPI
if MPI.COMM_WORLD.rank == 0:
    print("READY", time.process_time(), calls, flush=True)
"""


class Start(NamedTuple):
    """CPU seconds of rank 0, and its calls to the file system that are throttled."""

    cpu_s: float
    n_calls: int


def start(n_ranks: int, machine: Machine) -> Start:
    """Start ranks that import, and wait for them."""
    program = [sys.executable, "-c", IMPORTS, f"{sys.prefix}/"]
    command = [*_mpirun(n_ranks), *staged_command(machine, program)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    ready = re.search(r"READY (\S+) (\d+)", done.stdout)
    if ready is None or "warning: " in done.stdout:
        sys.exit(f"ended with code {done.returncode}:\n{done.stdout}{done.stderr}")
    return Start(float(ready[1]), int(ready[2]))


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2, help="of mpirun (default: %(default)s)")
    parser.add_argument("--open-ms", type=float, default=10, help="of each call (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=3, help="default: %(default)s")
    given = parser.parse_args(words)
    plain = Machine(name="here", starter="mpirun")
    with tempfile.TemporaryDirectory() as folder:
        staged = plain.model_copy(update={"stage_environment": folder})
        began_s = sum(os.times()[:4])
        if pack_environment(staged).stage_environment is None:
            sys.exit("the environment cannot be packed")
        pack_s = sum(os.times()[:4]) - began_s
        archive = Path(staged_command(staged, [])[4])
        size = archive.stat().st_size / 1e9
        say(f"packed in {pack_s:.1f} CPU seconds; the first start unpacks ...")
        shared, copy = [], []
        unpack_s = start(1, staged).cpu_s
        for trial in range(given.trials):
            shared.append(start(given.ranks, plain))
            copy.append(start(given.ranks, staged))
            say(f"trial {trial}: {shared[-1]}, from the copy {copy[-1]}")
        archive.unlink()
    throttled = [[one.cpu_s + one.n_calls * given.open_ms / 1e3 for one in way] for way in (shared, copy)]
    ratios = [slow / quick for slow, quick in zip(*throttled, strict=True)]
    lines = [
        f"result:    throttled, {given.open_ms:g} ms for each file opened: ranks are ready "
        f"{spread(ratios, 2)} times as early from the copy",
        header(LIBRARIES, f"{given.trials} of each way, in turn; CPU seconds of a rank, and what is added"),
        f"once:      packing {pack_s:.1f} CPU seconds, a node's first start with unpacking {unpack_s:.1f}, "
        f"for {size:.1f} GB",
        f"  from the environment {spread(throttled[0], 2)} s, {shared[0].n_calls} calls throttled",
        f"  from its copy        {spread(throttled[1], 2)} s, {copy[0].n_calls} calls throttled",
    ]
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
