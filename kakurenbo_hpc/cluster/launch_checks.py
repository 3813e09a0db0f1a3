"""Checks of a job and its layout before a process starts: batch, cores, GPUs, scratch, samples."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from ..config.job import Job
from ..errors import DataError, JobError, UserError, WorldError
from .doctor.subprocess_json import probe_command, run_job_probe, run_probe
from .launchers import open_launcher
from .launchers.launcher import Layout
from .machine import Machine
from .schedulers import open_scheduler

RANKS_PER_CORE = 8
"""More ranks on a core only slow each other down, and may take a node out of service."""

_ASK_FROM = 9  # fewer ranks find out by themselves, sooner than a process that imports torch
_LIMIT_S = 120.0


def check_job_fits(job: Job, machine: Machine, n_ranks: int) -> int:
    """Return the global batch of a job on ranks of a machine.

    Raises:
        JobError: it cannot run there.
    """
    if job.data.placement == "local" and machine.scratch is None:
        raise JobError(
            f"{job.name}: data.placement is local, but {machine.name} has no scratch folder; add scratch to "
            "its machine file"
        )
    return global_batch(job, n_ranks)


def global_batch(job: Job, n_ranks: int) -> int:
    """Return the global batch of a job on n_ranks ranks. Raises JobError if it is too small."""
    try:
        return job.training.batch(n_ranks)
    except ValueError as problem:
        raise JobError(f"{job.name}: {problem}") from None


def job_fits(job: Job, n_ranks: int) -> bool:
    """Return whether a run may go on, with the same global batch and learning rate, on fewer ranks."""
    training = job.training
    return (
        training.global_batch is not None
        and training.global_batch >= n_ranks
        and training.lr_scaling == "none"
    )


def check_cores(layout: Layout, oversubscribe: bool) -> None:
    """Raise UserError for more than eight ranks a core of this machine, unless ``oversubscribe``."""
    n_cores = len(os.sched_getaffinity(0))
    if layout.n_nodes is None and not oversubscribe and layout.n_ranks > RANKS_PER_CORE * n_cores:
        raise UserError(
            f"--ranks is {layout.n_ranks}, but {n_cores} cores may be used here; start at most "
            f"{RANKS_PER_CORE} ranks a core ({RANKS_PER_CORE * n_cores}), or add --oversubscribe"
        )


def check_node(machine: Machine) -> None:
    """Raise UserError for more than eight ranks a core of the machine's nodes."""
    n_cores, n_ranks = machine.cores_per_node, machine.ranks_per_node or 1
    if n_cores and n_ranks > RANKS_PER_CORE * n_cores:
        raise UserError(
            f"{machine.name}: ranks_per_node is {n_ranks}, but cores_per_node is {n_cores}; start at most "
            f"{RANKS_PER_CORE} ranks a core"
        )


def check_gpus(machine: Machine, layout: Layout) -> None:
    """Raise WorldError if torch sees fewer GPUs here than ranks start here. On other nodes, ranks look."""
    if not machine.gpus_per_node or not _ranks_start_here(machine, layout):
        return
    n_needed = min(layout.n_per_node, machine.gpus_per_node)
    facts = _ask_torch(machine)
    n_seen = len(facts["gpus"]) if facts else n_needed
    if n_seen < n_needed:
        variable = (os.environ | machine.environment).get("CUDA_VISIBLE_DEVICES")
        seen = f"CUDA_VISIBLE_DEVICES={variable}" if variable is not None else f"torch {facts['version']}"
        raise WorldError(
            f"{machine.name}: gpus_per_node is {machine.gpus_per_node}, but {n_seen} GPUs are visible here "
            f"to {n_needed} ranks ({facts['no_gpu'] or seen}); start where GPUs are, or set gpus_per_node "
            "to 0 to train on CPUs"
        )


def _ranks_start_here(machine: Machine, layout: Layout) -> bool:
    """Whether ranks start on this node: outside a job, or on the node of a job that its script runs on."""
    if machine.scheduler != "none" and open_scheduler(machine.scheduler).node_variable in os.environ:
        return True
    # A launcher that needs an allocation starts ranks on its nodes.
    return layout.n_nodes is None and open_launcher(machine.starter).can_start_here({})


def _ask_torch(machine: Machine) -> dict[str, Any]:
    """Return what torch says of itself and its GPUs here; nothing where it does not answer in time."""
    command = probe_command(sys.executable, "torch")
    with contextlib.suppress(UserError):
        return run_probe(command, machine.environment, "probe of torch", _LIMIT_S)
    return {}


def check_samples(job: Job, machine: Machine, n_ranks: int) -> None:
    """Raise DataError for more ranks than samples; what cannot be read here is left to the ranks."""
    if n_ranks < _ASK_FROM:
        return
    n = _count_samples(job, machine)
    if n is not None and n < n_ranks:
        raise DataError(f"{job.data.name} has {n} samples for {n_ranks} ranks; use at most one rank a sample")


def _count_samples(job: Job, machine: Machine) -> int | None:
    with contextlib.suppress(UserError):
        return int(run_job_probe(sys.executable, "data", job, machine.environment, _LIMIT_S)["train"])
    return None
