"""What each rank does before its program: it keeps to its GPU, to the cores beside that, and to as many threads.

``python -m kakurenbo_hpc.cluster.bind_rank MACHINE PROGRAM...``, where the starter starts ranks; the program may be any.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..distributed.launch_env import local_rank, read_launch_env
from ..errors import USER_ERROR, UserError, WorldError
from .launchers.launcher import cores
from .machine import Machine, read_machine

Cores = set[int]  # numbers as the system counts hardware threads


@dataclass(frozen=True)
class Binding:
    """gpu: what CUDA_VISIBLE_DEVICES is set to; cores: to keep to. None leaves things as the starter made them."""

    gpu: str | None
    cores: Cores | None


def binding(
    machine: Machine, local: int, environ: Mapping[str, str], allowed: Cores, of_numa: Callable[[int], Cores]
) -> Binding:
    """Return what the rank with this local rank keeps to. of_numa: the cores of a NUMA node.

    Raises WorldError if fewer GPUs are visible than ranks need.
    """
    if not machine.gpus_per_node:
        return Binding(None, None)
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    gpus = (
        [gpu for gpu in visible.split(",") if gpu]
        if visible is not None
        else [str(i) for i in range(machine.gpus_per_node)]
    )
    own = len(gpus) == 1 < machine.gpus_per_node  # the batch system gave each rank a GPU of its own
    if not own and local >= len(gpus):
        raise WorldError(
            f"local rank {local} finds CUDA_VISIBLE_DEVICES={visible}; ask for {machine.gpus_per_node} GPUs on each node"
        )
    if not machine.gpu_numa or local >= len(machine.gpu_numa):
        return Binding(None if own else gpus[local], None)
    ranks = range(machine.ranks_per_node or machine.gpus_per_node)
    # Where each rank sees only its own GPU, that is number 0 to all of them.
    numbers = [
        _number(gpus[rank], rank, machine.gpus_per_node) if rank < len(gpus) and not own else rank
        for rank in ranks
    ]
    numa = machine.gpu_numa[numbers[local]]
    neighbours = [rank for rank in ranks if machine.gpu_numa[numbers[rank]] == numa]
    near = sorted(of_numa(numa) & allowed)
    # Hardware threads of one core are numbered far apart: in turns, each rank would get halves of cores.
    share = [cpu for core in _dealt(_by_core(near), neighbours.index(local), len(neighbours)) for cpu in core]
    return Binding(None if own else gpus[local], set(share) or None)


def main(words: list[str]) -> None:
    """Bind this rank as the machine says, then become the program."""
    try:
        machine, program = read_machine(words[0]), words[1:]
        local = local_rank(os.environ)
        if local is None:
            raise WorldError(
                "the starter does not say which rank of its node this is; start with mpirun, mpiexec, srun or torchrun"
            )
        bound = binding(machine, local, os.environ, os.sched_getaffinity(0), _numa_cores)
    except UserError as problem:
        print(f"kakurenbo: {problem}", file=sys.stderr, flush=True)
        sys.exit(USER_ERROR)
    set_here = {}
    if bound.gpu is not None:
        set_here["CUDA_VISIBLE_DEVICES"] = bound.gpu
    if bound.cores:
        os.sched_setaffinity(0, bound.cores)
        if "OMP_NUM_THREADS" not in machine.environment:
            set_here["OMP_NUM_THREADS"] = str(cores())
    os.environ.update(set_here)
    first_node = read_launch_env(os.environ).rank < (machine.ranks_per_node or machine.gpus_per_node)
    told = [f"{name}={value}" for name, value in set_here.items()] + (
        [f"cores {_ranges(bound.cores)}"] if bound.cores else []
    )
    if told and first_node:  # of a thousand ranks, those of the others say the same
        print(f"{os.uname().nodename}, local rank {local}: {', '.join(told)}", flush=True)
    os.execvp(program[0], program)


def _number(gpu: str, rank: int, n: int) -> int:
    """Return the number of a rank's GPU among the n of its node; one that goes by another name is taken for the rank's."""
    return int(gpu) if gpu.isdecimal() and int(gpu) < n else rank


def _numa_cores(numa: int) -> Cores:
    try:
        return _parsed(Path(f"/sys/devices/system/node/node{numa}/cpulist").read_text())
    except OSError:
        raise WorldError(
            f"{os.uname().nodename} has no NUMA node {numa}; correct gpu_numa in the machine file"
        ) from None


def _parsed(ranges: str) -> Cores:
    """Return the numbers of the kernel's notation: 0-9,40-49."""
    found = set()
    for part in filter(None, ranges.strip().split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def _ranges(cpus: Cores) -> str:
    """Return numbers in the kernel's notation."""
    starts = sorted(cpu for cpu in cpus if cpu - 1 not in cpus)
    ends = sorted(cpu for cpu in cpus if cpu + 1 not in cpus)
    return ",".join(f"{first}-{last}" if first != last else f"{first}" for first, last in zip(starts, ends))


def _by_core(cpus: list[int]) -> list[list[int]]:
    """Return hardware threads grouped by their physical core."""
    found: dict[str, list[int]] = {}
    for cpu in cpus:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        found.setdefault(siblings.read_text() if siblings.exists() else str(cpu), []).append(cpu)
    return list(found.values())


def _dealt(items: list, turn: int, n: int) -> list:
    """Return one of n shares that differ by at most one item."""
    return items[turn * len(items) // n : (turn + 1) * len(items) // n]


if __name__ == "__main__":
    main(sys.argv[1:])
