"""World: communicator, rank, node and device of this process, checked against the launcher."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..errors import USER_ERROR, WorldError
from .comm import Comm, SerialComm
from .launch_env import NEEDS_GPU, LaunchEnv, read_launch_env

_REPORT_S = 5  # for another rank to report the cause; srun kills ranks ten seconds after the first exit


@dataclass(frozen=True)
class World:
    """The communicator and this rank's place in it.

    Attributes:
        comm: communicator of all ranks.
        node: host name.
        local_rank: index of this rank among those of its node.
        local_size: number of ranks on the node.
        device: the rank's own GPU, or the CPU.
    """

    comm: Comm
    node: str
    local_rank: int
    local_size: int
    device: torch.device

    @classmethod
    def detect(cls, comm: Comm) -> World:
        """Gather all ranks' hosts, choose this rank's device and set its number of threads. Collective.

        The device is one GPU per rank, by local rank. The number of threads is the rank's share of the
        node's cores, or OMP_NUM_THREADS if that is smaller.

        Raises:
            WorldError: a node has fewer GPUs than ranks; on all ranks alike.
        """
        node = socket.gethostname()
        ranks = comm.gather((node, os.sched_getaffinity(0)))
        nodes = [name for name, _ in ranks]
        local_rank, local_size = nodes[: comm.rank].count(node), nodes.count(node)
        # The launcher may have bound each rank to its own cores: the node's cores are the union.
        cores = set().union(*(affinity for name, affinity in ranks if name == node))
        share = max(1, min(len(os.sched_getaffinity(0)), len(cores) // local_size))
        limit = os.environ.get("OMP_NUM_THREADS", "")
        torch.set_num_threads(min(share, int(limit)) if limit.isdecimal() and int(limit) else share)
        device = comm.run_or_raise_together(lambda: _device(node, local_rank, local_size))
        return cls(comm, node, local_rank, local_size, device)

    @property
    def rank(self) -> int:
        """Index of this rank."""
        return self.comm.rank

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self.comm.size

    @property
    def one_node(self) -> bool:
        """Whether all ranks run on one node."""
        return self.local_size == self.size


def open_comm(environ: Mapping[str, str] = os.environ) -> Comm:
    """Open the communicator of the launcher's ranks: torchrun's, MPI's, or this process alone.

    Raises:
        WorldError: MPI does not see the ranks that the launcher announced. Where every rank sees only
            itself, rank 0 raises it for all.
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
        _let_rank_0_report(started)
        raise WorldError(
            f"started by {started.starter} as rank {started.rank} of {started.size}, but mpi4py does not "
            "load "
            f"({' '.join(str(problem).split())}); install mpi4py for this Python, with the MPI that starts "
            "the ranks"
        ) from None
    comm = MpiComm()
    check_size(started, comm)
    return comm


def check_size(started: LaunchEnv, comm: Comm) -> None:
    """Compare the launcher's ranks with MPI's.

    Raises:
        WorldError: they differ. Where MPI sees one rank everywhere, only rank 0 raises it.
        SystemExit: on the other ranks in that case.
    """
    if (started.rank, started.size) == (comm.rank, comm.size):
        return
    if comm.size == 1 and started.rank:
        _let_rank_0_report(started)
        raise SystemExit(USER_ERROR)
    raise WorldError(
        f"{started.starter} started rank {started.rank} of {started.size}, but MPI says rank {comm.rank} "
        f"of {comm.size}; "
        "the starter and mpi4py's MPI library are of different makes: use the mpirun of that library, "
        "or srun --mpi=pmix (Open MPI) or --mpi=pmi2 (MPICH)"
    )


def _let_rank_0_report(started: LaunchEnv) -> None:
    """Sleep on ranks above 0 so that rank 0 can report: many launchers kill all ranks when one exits."""
    if started.rank:
        time.sleep(_REPORT_S)


def wait_for_abort(problem: BaseException) -> None:
    """Wait for the job's abort if this rank failed only because it lost a peer, which reports the cause.

    Returns after five seconds if this rank was not killed, and at once for other problems.
    """
    if any(word in str(problem) for word in ("gloo", "Gloo", "NCCL")):
        time.sleep(_REPORT_S)


def _device(node: str, local_rank: int, local_size: int) -> torch.device:
    if not torch.cuda.is_available():
        if NEEDS_GPU in os.environ:
            raise WorldError(
                f"{node}: the machine file has GPUs, but torch sees none "
                f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')}); ask the batch system for "
                "them, or set gpus_per_node to 0 to train on CPUs"
            )
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
