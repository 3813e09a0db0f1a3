"""Launcher environment: which of mpirun, mpiexec, srun and torchrun started this process, and its rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import WorldError, shown

NEEDS_GPU = "KAKURENBO_NEEDS_GPU"
"""Variable that is set for each rank of a machine with GPUs: it must not train on a CPU instead."""


@dataclass(frozen=True)
class LaunchEnv:
    """A starter's word on this process: its rank of how many; None where the starter does not say."""

    starter: str
    rank: int
    size: int


# mark, rank, size and local rank of each starter, the surest first; a PMI process manager under srun sets
# Slurm's as well
_STARTERS = [
    ("torchrun", "TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK"),
    (
        "Open MPI's mpirun",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
    ),
    (
        "MVAPICH's mpiexec",
        "MV2_COMM_WORLD_RANK",
        "MV2_COMM_WORLD_RANK",
        "MV2_COMM_WORLD_SIZE",
        "MV2_COMM_WORLD_LOCAL_RANK",
    ),
    (
        "a starter that speaks PMI (mpiexec of MPICH or Intel, srun --mpi=pmi2)",
        "PMI_RANK",
        "PMI_RANK",
        "PMI_SIZE",
        "MPI_LOCALRANKID",
    ),
    ("PALS mpiexec", "PALS_RANKID", "PALS_RANKID", "PALS_NRANKS", "PALS_LOCAL_RANKID"),
    ("flux run", "FLUX_TASK_RANK", "FLUX_TASK_RANK", "FLUX_JOB_SIZE", "FLUX_TASK_LOCAL_ID"),
    ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
]


def read_launch_env(environ: Mapping[str, str]) -> LaunchEnv | None:
    """Return what the starter says of this process, or None if nothing started it as a rank.

    A plain ``python`` inside a batch shell is no rank: SLURM_PROCID stands there too, but no step of srun's.
    Raises WorldError if what stands there is no number.
    """
    for starter, mark, rank, size, _ in _STARTERS:
        if mark in environ and rank in environ and size in environ:
            # The batch shell itself is a step of one task without a connection to srun; salloc's shell is one
            # with it.
            if starter == "srun" and (
                "SLURM_SRUN_COMM_HOST" not in environ or environ.get("SLURM_STEP_ID") == "4294967290"
            ):
                continue
            return LaunchEnv(starter, _number(environ, rank), _number(environ, size))
    return None


def local_rank(environ: Mapping[str, str]) -> int | None:
    """Return this rank's place among those of its node, or None where the starter does not say."""
    started = read_launch_env(environ)
    names = [local for starter, *_, local in _STARTERS if started and starter == started.starter]
    # A PMI that srun serves leaves the local rank to Slurm's own variable.
    return next(
        (_number(environ, name) for name in [*names, "SLURM_LOCALID"] if started and name in environ), None
    )


def _number(environ: Mapping[str, str], name: str) -> int:
    if not environ[name].isdecimal():
        found = shown(environ[name])
        raise WorldError(
            f"{name} is {found}, but a starter of ranks sets it to a number; unset it, or start with "
            "mpirun, srun or torchrun"
        )
    return int(environ[name])
