"""Sweeps over numbers of ranks: the batch of each size, and the launch of one size after another."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ..config.job import Job
from ..config.yaml import dump_yaml
from ..errors import DONE, JobError
from ..rundir.atomic_io import write_whole
from ..rundir.console import print_line
from .launch_checks import check_job_fits, global_batch
from .machine import Machine

ReadJob = Callable[[list[str]], Job]
"""From overrides, ``section.key=value``, to the job."""


def scaled_overrides(job: Job, n_smallest: int, scaling: str) -> list[str]:
    """Return overrides that keep the batch of the smallest size: the global (strong) or each rank's (weak).

    Raises:
        JobError: the batch does not divide, or the learning rate would change with the number of ranks.
    """
    batch = global_batch(job, n_smallest)
    if scaling == "strong":
        if job.training.lr_scaling == "ranks":
            raise JobError(
                f"{job.name}: --scaling strong keeps the global batch, but training.lr_scaling is ranks, "
                "which raises the learning rate with the number of ranks; set it to none, or use weak"
            )
        return [f"training.global_batch={batch}", "training.batch_per_rank=null"]
    batch_per_rank = batch // (n_smallest * job.training.accumulate)
    return [f"training.batch_per_rank={batch_per_rank}", "training.global_batch=null"]


def describe_growth(job: Job, n_ranks: Sequence[int]) -> str:
    """Return a line that says what weak scaling does to the global batch and to the learning rate."""
    training = job.training
    batches, rates = ([f"{of(n):g}" for n in n_ranks] for of in (training.batch, training.peak_lr))
    return (
        f"weak scaling, {', '.join(map(str, n_ranks))} ranks: global batch {', '.join(batches)}; "
        f"learning rate {', '.join(rates)} (training.lr_scaling is {training.lr_scaling})"
    )


def _keep_threads(machine: Machine, n_most: int) -> None:
    """Give each rank as many threads on all sizes of a sweep: those that the cores leave at the largest."""
    if not machine.gpus_per_node and "OMP_NUM_THREADS" not in machine.environment:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // n_most)))


def launch_sweep(
    read_job: ReadJob,
    machine: Machine,
    run_dir: Path | None,
    n_ranks: Sequence[int],
    scaling: str,
    launch: Callable[[Job, Path, Path, int, list[str]], int],
    dry_run: bool,
) -> int:
    """Launch one run after another, of each number of ranks; return the first exit code that is not 0.

    Each run is in ``ranks_NNNN`` of the sweep's folder. All are checked before the first starts. On CPUs,
    ranks have as many threads on all sizes.

    Args:
        read_job: reads the job.
        machine: where they start.
        run_dir: the sweep's folder; ``runs/NAME`` if None.
        n_ranks: of each run.
        scaling: what is kept, strong or weak.
        launch: starts a job, from its file, in a run directory, on ranks, with overrides.
        dry_run: nothing is written or started.
    """
    _keep_threads(machine, max(n_ranks))
    base = read_job([])
    overrides = scaled_overrides(base, min(n_ranks), scaling)
    job, folder = read_job(overrides), run_dir or Path("runs") / base.name
    for n in n_ranks:
        check_job_fits(job, machine, n)
    job_file = folder / "sweep.yaml"
    if not dry_run:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(job_file, dump_yaml(job.as_dict()))
    if scaling == "weak":
        print_line(describe_growth(job, n_ranks))
    for n in n_ranks:
        if code := launch(job, job_file, folder / f"ranks_{n:04d}", n, []):
            return code
    return DONE
