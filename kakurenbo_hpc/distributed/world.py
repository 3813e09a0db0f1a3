"""This rank's place among all: rank, size, node, device; found from the starter and checked against what the ranks say."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..errors import USER_ERROR, WorldError
from .comm import Comm, SerialComm
from .launch_env import LaunchEnv, read_launch_env

_LAST_WORD_S = 5  # in which another rank says why all end; srun ends all that outlive the first by ten


@dataclass(frozen=True)
class World:
    """All ranks, and this one's place. node: its host's name. local_rank, local_size: its place among the ranks there."""

    comm: Comm
    node: str
    local_rank: int
    local_size: int
    device: torch.device

    @property
    def rank(self) -> int:
        return self.comm.rank

    @property
    def size(self) -> int:
        return self.comm.size

    @property
    def one_node(self) -> bool:
        return self.local_size == self.size


def open_comm(environ: Mapping[str, str] = os.environ) -> Comm:
    """Return the ranks that the starter made: torchrun's, MPI's, or this process alone.

    Raises WorldError if MPI does not see the ranks that the starter promised; where each sees itself alone, rank 0 does, for all.
    """
    started = read_launch_env(environ)
    if started is None:
        return SerialComm()
    if started.starter == "torchrun":
        from .comm_torch import TorchComm

        return TorchComm()
    try:
        from .comm_mpi import MpiComm
    except (ImportError, RuntimeError) as problem:
        _let_rank_0_speak(started)
        raise WorldError(
            f"started by {started.starter} as rank {started.rank} of {started.size}, but mpi4py does not load "
            f"({' '.join(str(problem).split())}); install mpi4py for this Python, with the MPI that starts the ranks"
        ) from None
    comm = MpiComm()
    check_size(started, comm)
    return comm


def check_size(started: LaunchEnv, comm: Comm) -> None:
    """Raise WorldError if the starter's ranks and MPI's are not the same; if MPI sees one rank everywhere, only rank 0 does."""
    if (started.rank, started.size) == (comm.rank, comm.size):
        return
    if comm.size == 1 and started.rank:
        _let_rank_0_speak(started)
        raise SystemExit(USER_ERROR)
    raise WorldError(
        f"{started.starter} started rank {started.rank} of {started.size}, but MPI says rank {comm.rank} of {comm.size}; "
        "the starter and mpi4py's MPI library are of different makes: use the mpirun of that library, "
        "or srun --mpi=pmix (Open MPI) or --mpi=pmi2 (MPICH)"
    )


def _let_rank_0_speak(started: LaunchEnv) -> None:
    """Give rank 0 the time to tell what all ranks find: many a starter ends all of them as soon as one has left."""
    if started.rank:
        time.sleep(_LAST_WORD_S)


def await_the_cause(problem: BaseException) -> None:
    """Give another rank the last word: one that lost its peer fails only because that peer did, and will be ended with it.

    Returns after five seconds if nobody ends this rank.
    """
    if any(word in str(problem) for word in ("gloo", "Gloo", "NCCL")):
        time.sleep(_LAST_WORD_S)


def settle(comm: Comm) -> World:
    """Give this rank its device (one GPU per rank, by local rank) and its share of the node's cores, or OMP_NUM_THREADS if fewer."""
    node = socket.gethostname()
    ranks = comm.gather((node, os.sched_getaffinity(0)))
    nodes = [name for name, _ in ranks]
    local_rank, local_size = nodes[: comm.rank].count(node), nodes.count(node)
    # The starter may have bound each rank to cores of its own: the node's are what its ranks have together.
    cores = set().union(*(mine for name, mine in ranks if name == node))
    share = max(1, min(len(os.sched_getaffinity(0)), len(cores) // local_size))
    asked = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(min(share, int(asked)) if asked.isdecimal() and int(asked) else share)
    return World(
        comm,
        node,
        local_rank,
        local_size,
        comm.run_or_raise_together(lambda: _device(node, local_rank, local_size)),
    )


def _device(node: str, local_rank: int, local_size: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    visible = torch.cuda.device_count()
    # A rank wrapper or the batch system may have left each rank a single GPU of its own.
    if visible == 1 and local_size > 1 and "CUDA_VISIBLE_DEVICES" in os.environ:
        index = 0
    elif local_rank < visible:
        index = local_rank
    else:
        raise WorldError(f"{node} has {visible} GPUs but {local_size} ranks; start at most one rank per GPU")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
