"""Binding of a rank to its GPU, to the CPU cores beside it, and to as many threads; then the rank's program.

``python -m kakurenbo_hpc.cluster.bind_rank MACHINE PROGRAM...``, as the launcher starts it; any program.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile

from ..core.cpu_topology import count_physical_cores, format_cpu_list, group_by_core, numa_threads
from ..distributed.launch_env import NEEDS_GPU, local_rank, read_launch_env
from ..errors import USER_ERROR, UserError, WorldError
from .machine import Machine, read_machine

Threads = set[int]
"""Hardware threads, as the system numbers them."""


@dataclass(frozen=True)
class Binding:
    """What a rank is bound to; None leaves it as the launcher made it.

    Attributes:
        gpu: value of CUDA_VISIBLE_DEVICES.
        threads: hardware threads.
    """

    gpu: str | None
    threads: Threads | None


def choose_binding(
    machine: Machine,
    local_rank: int,
    environ: Mapping[str, str],
    allowed: Threads,
    threads_of_numa: Callable[[int], Threads],
) -> Binding:
    """Return the binding of a rank.

    Args:
        machine: its GPUs and their NUMA nodes.
        local_rank: the rank's number on its node.
        environ: the rank's environment.
        allowed: hardware threads that the batch system lets it use.
        threads_of_numa: from a NUMA node to its hardware threads.

    Raises:
        WorldError: fewer GPUs are visible than ranks need.
    """
    if not machine.gpus_per_node:
        return Binding(None, None)
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        gpus = [str(i) for i in range(machine.gpus_per_node)]
    else:
        # CUDA itself stops at the first entry that is no GPU.
        gpus = list(takewhile(lambda gpu: gpu and gpu[0] != "-" and gpu != "NoDevFiles", visible.split(",")))
    is_private = len(gpus) == 1 < machine.gpus_per_node  # the batch system gave each rank a GPU of its own
    if not is_private and local_rank >= len(gpus):
        raise WorldError(
            f"local rank {local_rank} finds CUDA_VISIBLE_DEVICES={visible}; ask for {machine.gpus_per_node} "
            "GPUs on each node"
        )
    gpu = None if is_private else gpus[local_rank]
    if not machine.gpu_numa or local_rank >= len(machine.gpu_numa):
        return Binding(gpu, None)
    ranks = range(machine.ranks_per_node or machine.gpus_per_node)
    # Where each rank sees only its own GPU, that is number 0 to all of them.
    numbers = [
        _gpu_number(gpus[rank], rank, machine.gpus_per_node) if rank < len(gpus) and not is_private else rank
        for rank in ranks
    ]
    numa = machine.gpu_numa[numbers[local_rank]]
    neighbours = [rank for rank in ranks if machine.gpu_numa[numbers[rank]] == numa]
    # Hardware threads of one core are numbered far apart: in turns, each rank would get halves of cores.
    cores = group_by_core(sorted(threads_of_numa(numa) & allowed))
    share = _share(cores, neighbours.index(local_rank), len(neighbours))
    return Binding(gpu, {thread for core in share for thread in core} or None)


def main(words: list[str]) -> None:
    """Bind this rank as the machine file says, then become the program.

    Args:
        words: machine file, program, arguments of the program.
    """
    try:
        machine, program = read_machine(words[0]), words[1:]
        launch_env, local = read_launch_env(os.environ), local_rank(os.environ)
        if launch_env is None or local is None:
            raise WorldError(
                "the launcher does not say which rank of its node this is; start with mpirun, mpiexec, srun "
                "or torchrun"
            )
        binding = choose_binding(machine, local, os.environ, os.sched_getaffinity(0), numa_threads)
    except UserError as problem:
        print(f"kakurenbo: {problem}", file=sys.stderr, flush=True)
        sys.exit(USER_ERROR)
    settings = _apply(binding, machine)
    on_first_node = launch_env.rank < (machine.ranks_per_node or machine.gpus_per_node)
    if settings and on_first_node:  # of a thousand ranks, those of other nodes print the same
        print(f"{os.uname().nodename}, local rank {local}: {', '.join(settings)}", flush=True)
    os.execvp(program[0], program)


def _apply(binding: Binding, machine: Machine) -> list[str]:
    """Bind this process, and return what was set."""
    variables = {}
    if machine.gpus_per_node:
        os.environ[NEEDS_GPU] = "1"
    if binding.gpu is not None:
        variables["CUDA_VISIBLE_DEVICES"] = binding.gpu
    if binding.threads:
        os.sched_setaffinity(0, binding.threads)
        if "OMP_NUM_THREADS" not in machine.environment:
            variables["OMP_NUM_THREADS"] = str(count_physical_cores())
    os.environ.update(variables)
    cores = [f"cores {format_cpu_list(binding.threads)}"] if binding.threads else []
    return [f"{name}={value}" for name, value in variables.items()] + cores


def _gpu_number(gpu: str, rank: int, n_gpus: int) -> int:
    """Return the number of a rank's GPU on its node; for a GPU named otherwise (GPU-8a5f) the rank."""
    return int(gpu) if gpu.isdecimal() and int(gpu) < n_gpus else rank


def _share(cores: list[list[int]], index: int, n_shares: int) -> list[list[int]]:
    """Return one of n shares, which differ by at most one core."""
    return cores[index * len(cores) // n_shares : (index + 1) * len(cores) // n_shares]


if __name__ == "__main__":
    main(sys.argv[1:])
