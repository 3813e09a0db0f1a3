"""Start-up and exit of a run, beside ranks that only import the libraries.

    python scripts/bench_startup.py [--trials 7]

Two ranks of mpirun on this machine. Each trial starts three programs, in turn:

    bare    imports torch, mpi4py and numpy, meets the other rank in a barrier, and exits
    ddp     the same, then one SGD step of a small layer under DistributedDataParallel, and exits
    run     kakurenbo train digits_everything with two epochs

Start-up lasts from the start of mpirun to the barrier, or to the end of the first training step. The exit
lasts from the barrier, or the last epoch's line, to the end of mpirun. The first trial warms up and is not
counted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

from bench_common import _mpirun, environment, header, median, say, spread, verdict

LEAST_TRIALS = 7
N_RANKS = 2
START_WANTED = 1.4  # times the start-up of bare ranks
EXIT_WANTED = 0.5  # seconds more than the exit of bare ranks

_MARK = """
import time
def mark(name):
    print(f"MARK {name} {time.time()}", flush=True)
"""
BARE = (
    _MARK
    + """
import numpy, torch
from mpi4py import MPI
MPI.COMM_WORLD.Barrier()
if MPI.COMM_WORLD.rank == 0:
    mark("ready")
"""
)
DDP = (
    BARE
    + """
import torch.distributed as dist
rank, n = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
store = dist.TCPStore("127.0.0.1", 0, n, is_master=True, wait_for_workers=False) if rank == 0 else None
port = MPI.COMM_WORLD.bcast(store.port if rank == 0 else None)
store = store or dist.TCPStore("127.0.0.1", port, n, is_master=False)
dist.init_process_group("gloo", store=store, rank=rank, world_size=n)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.ones(1, 2)).sum().backward()
optimizer.step()
if rank == 0:
    mark("step")
dist.destroy_process_group()
"""
)
RUN = (
    _MARK
    + """
import os, sys
from kakurenbo_hpc import cli
from kakurenbo_hpc.rundir.console import Console
from kakurenbo_hpc.training.learner import Learner

def marked(work, name):
    def and_mark(*arguments):
        result = work(*arguments)
        if os.environ["OMPI_COMM_WORLD_RANK"] == "0" and (name != "step" or work not in done):
            done.add(work)
            mark(name)
        return result
    return and_mark

done = set()
Learner.step = marked(Learner.step, "step")
Console.epoch = marked(Console.epoch, "epoch")
sys.argv[0] = "kakurenbo"
cli.main()
"""
)


class Times(NamedTuple):
    """Seconds of one start of mpirun: to its last mark of each name, and from its last mark to its end."""

    marks: dict[str, float]
    exit_s: float


def start(program: str, words: Sequence[str] = ()) -> Times:
    """Run the program on the ranks and return when it wrote its marks."""
    begun = time.time()
    command = [*_mpirun(N_RANKS), sys.executable, "-c", program, *words]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    ended = time.time()
    if done.returncode:
        sys.exit(f"ended with code {done.returncode}:\n{done.stdout}{done.stderr}")
    marks = {}
    for line in done.stdout.splitlines():
        if line.startswith("MARK "):
            _, name, at = line.split()
            marks[name] = float(at) - begun
    return Times(marks, ended - begun - max(marks.values()))


def measure(n_trials: int) -> list[tuple[Times, Times, Times]]:
    """Return the times of bare ranks, of ranks with DDP, and of a run, of each trial."""
    trials = []
    for trial in range(n_trials + 1):
        with tempfile.TemporaryDirectory() as folder:
            words = ["train", "digits_everything", "--run-dir", f"{folder}/run", "--set", "training.epochs=2"]
            times = (start(BARE), start(DDP), start(RUN, words))
        if trial:
            trials.append(times)
        bare, ddp, run = times
        say(
            f"trial {trial} of {n_trials}: bare {bare.marks['ready']:.2f} s, ddp {ddp.marks['step']:.2f} s, "
            f"run {run.marks['step']:.2f} s; exit {bare.exit_s:.2f} and {run.exit_s:.2f} s"
        )
    return trials


def report(trials: Sequence[tuple[Times, Times, Times]]) -> str:
    """Return the result, the machine, and the figures that it rests on."""
    bare = [bare.marks["ready"] for bare, _, _ in trials]
    ddp = [ddp.marks["step"] for _, ddp, _ in trials]
    run = [run.marks["step"] for _, _, run in trials]
    of_bare = [mine / theirs for mine, theirs in zip(run, bare, strict=True)]
    of_ddp = [mine / theirs for mine, theirs in zip(run, ddp, strict=True)]
    exits = [run.exit_s - bare.exit_s for bare, _, run in trials]
    start_ratio, exit_s = median(of_bare), median(exits)
    return "\n".join(
        [
            f"result:    a run makes its first step after {start_ratio:.2f} times the start-up of bare "
            "ranks, and "
            f"{median(of_ddp):.2f} times that of ranks with DDP; it exits {exit_s:.2f} s later than they do",
            header(
                ("torch", "numpy", "mpi4py"), f"{len(trials)} of each program, in turn, after one to warm up"
            ),
            f"ranks:     {N_RANKS}, on CPUs",
            "",
            "seconds of start-up, median [quartiles]",
            f"  bare ranks, to their barrier          {spread(bare)}",
            f"  ranks with DDP, to their first step   {spread(ddp)}",
            f"  a run, to its first step              {spread(run)}",
            "of a run's start-up",
            f"  times that of bare ranks              {spread(of_bare)}",
            f"  times that of ranks with DDP          {spread(of_ddp)}",
            "seconds of exit",
            f"  bare ranks                            {spread([bare.exit_s for bare, _, _ in trials])}",
            f"  a run                                 {spread([run.exit_s for _, _, run in trials])}",
            f"  their difference                      {spread(exits)}",
            "",
            verdict(
                start_ratio <= START_WANTED, f"start-up at most {START_WANTED} times bare: {start_ratio:.2f}"
            ),
            verdict(exit_s <= EXIT_WANTED, f"exit at most {EXIT_WANTED} s after bare: {exit_s:.2f} s"),
        ]
    )


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=LEAST_TRIALS, help="default: %(default)s")
    print(report(measure(parser.parse_args(words).trials)))


if __name__ == "__main__":
    main(sys.argv[1:])
