"""What the starter put into the environment: mpirun, mpiexec, srun or torchrun, and which rank it says this is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Started:
    """A starter's word on this process: its rank of how many; None where the starter does not say."""

    starter: str
    rank: int
    size: int


# rank and size variables of each starter, the surest first; a PMI process manager under srun sets Slurm's as well
_STARTERS = [
    ("torchrun", "TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE"),
    ("Open MPI's mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MVAPICH's mpiexec", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("a PMI mpiexec (MPICH, Intel)", "PMI_RANK", "PMI_RANK", "PMI_SIZE"),
    ("PALS mpiexec", "PALS_RANKID", "PALS_RANKID", "PALS_NRANKS"),
    ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
]


def started_by(environ: Mapping[str, str]) -> Started | None:
    """Return what the starter says of this process, or None if nothing started it as a rank.

    A plain ``python`` inside a batch shell is no rank: SLURM_PROCID stands there too, but no step of srun's.
    """
    for starter, mark, rank, size in _STARTERS:
        if mark in environ and rank in environ and size in environ:
            # The batch shell itself is a step of one task without a connection to srun; salloc's shell is one with it.
            if starter == "srun" and ("SLURM_SRUN_COMM_HOST" not in environ or environ.get("SLURM_STEP_ID") == "4294967290"):
                continue
            return Started(starter, int(environ[rank]), int(environ[size]))
    return None
