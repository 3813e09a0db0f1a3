"""Runs of shipped jobs in this process, on the ranks that are up, and what a run directory holds."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import torch

from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.distributed.comm import Comm
from kakurenbo_hpc.engine.run import run
from kakurenbo_hpc.selection import METHODS


def train_here(job: str, sets: Sequence[str], directory: Path, comm: Comm | None, **more) -> int | None:
    """Train a job on the ranks of a communicator; return its exit code, None on a rank that is not of them.

    Args:
        job: its name, or its file.
        sets: ``section.key=value``, as ``--set`` takes them.
        directory: the run directory.
        comm: the ranks; None on any other rank.
        more: what else ``run`` takes.
    """
    if comm is None:
        return None
    gc.collect()  # a run before this one may have left what holds its locks
    return run(read_job(find_job(job), list(sets), DATASETS, METHODS), directory, comm, **more)


def meet(comm: Comm) -> None:
    """Wait for all ranks, asleep: MPI's own barrier would take the cores of those that still work."""
    if comm.mpi is not None:
        arrived = comm.mpi.Ibarrier()
        while not arrived.Test():
            time.sleep(0.005)


def lines(run: Path) -> list[dict]:
    """Return the lines of a run's metrics."""
    return [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]


def ledger(run: Path, epoch: int) -> dict[str, np.ndarray]:
    """Return the columns of the ledger that an epoch was planned on."""
    with h5py.File(run / "ledger" / f"epoch_{epoch:04d}.h5") as file:
        return {name: file[name][:] for name in file}


def parameters(run: Path, epoch: int) -> dict[str, torch.Tensor]:
    """Return the network that a checkpoint holds."""
    return torch.load(run / "checkpoints" / f"epoch_{epoch:04d}" / "learner.pt", weights_only=True)["model"]


def same_parameters(run: Path, other: Path, epoch: int) -> bool:
    """Return whether the networks of two runs are the same, bit for bit."""
    mine, theirs = parameters(run, epoch), parameters(other, epoch)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
