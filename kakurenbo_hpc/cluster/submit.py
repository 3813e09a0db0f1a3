"""Submission of a job to a batch system: one run, or a sweep over nodes and seeds."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

from ..config.job import Job
from ..config.yaml import dump_yaml
from ..errors import DONE, JobError, RunDirectoryError, UserError
from ..rundir.console import print_line
from ..rundir.job_diff import check_same
from ..rundir.path_checks import check_place
from .job_environment import JobEnvironment, choose_environment
from .launch_checks import check_job_fits, check_samples, global_batch
from .machine import Machine, check_word, read_machine
from .preflight import check_submission
from .schedulers import open_scheduler
from .schedulers.scheduler import ENDED, check_installed
from .script import Script, python_of
from .submission import BatchFolder, Submission
from .walltime import check_walltime, format_clock

ReadJob = Callable[[list[str]], Job]
"""From overrides, ``section.key=value``, to the job."""


class BatchRun(NamedTuple):
    """One run of a request. files: what its batch folder needs, by name."""

    batch: BatchFolder
    job: Job
    script: Script
    submission: Submission
    files: dict[str, str]


@dataclass(frozen=True)
class Request:
    """What ``kakurenbo submit`` was called with.

    Attributes:
        machine: name or file of a machine.
        nodes: number of nodes; several make a sweep.
        walltime: as it was typed.
        overrides: ``section.key=value``.
        name: of the run, or of the sweep.
        run_dir: of the run, or of the sweep.
        dependency: in the batch system's own syntax.
        seeds: a run for each.
        scaling: what a sweep over nodes keeps: ``strong`` the global batch, ``weak`` the batch of each rank.
        resume: go on with a run that exists.
        allow_changes: even if its job was another one.
        force: without the checks before a submission.

    Raises:
        UserError: for the first value that is wrong.
    """

    machine: str
    nodes: tuple[int, ...]
    walltime: str
    overrides: tuple[str, ...] = ()
    name: str | None = None
    run_dir: Path | None = None
    dependency: str | None = None
    seeds: tuple[int, ...] = ()
    scaling: str | None = None
    resume: bool = False
    allow_changes: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        if self.scaling not in (None, "strong", "weak"):
            raise UserError(
                f"--scaling is {self.scaling}, but must be strong (the global batch stays) or weak (the "
                "batch of each rank stays)"
            )
        if self.dependency is not None:
            try:
                check_word(self.dependency)
            except ValueError as problem:
                raise UserError(
                    f"--dependency is {self.dependency!r}, but {problem}; for example afterok:12"
                ) from None
        name = self.name
        if name is not None and (
            not name.strip(". ") or "/" in name or not name.isprintable() or len(name) > 100
        ):
            raise UserError(
                f"--name is {name[:60]!r}, which is not usable as a folder name; give 1 to 100 characters, "
                "no '/'"
            )


def parse_numbers(option: str, text: str, least: int) -> tuple[int, ...]:
    """Return the numbers of an option, ``1,2,4``.

    Raises:
        UserError: they are not different whole numbers of at least ``least``.
    """
    numbers = tuple(int(part) for part in text.split(",") if re.fullmatch("[0-9]{1,9}", part))
    if len(numbers) != text.count(",") + 1 or min(numbers) < least or len({*numbers}) < len(numbers):
        raise UserError(
            f"{option} is {text!r}, but must be different whole numbers from {least} on; for example 1,2,4"
        )
    return numbers


def submit(read_job: ReadJob, request: Request, dry_run: bool) -> int:
    """Submit all runs of a request, or, on a dry run, print their scripts on stdout, the commands on stderr.

    Raises:
        UserError: one of them cannot run (before any is submitted), or the batch system refuses one.
    """
    machine = read_machine(request.machine)
    if machine.scheduler == "none":
        raise UserError(
            f"{machine.name} has no batch system; start here with kakurenbo launch, or choose another "
            "--machine"
        )
    _check_python(machine)
    runs = list(_list_runs(read_job, request, machine))
    if dry_run:
        _print_runs(runs, request, machine)
    else:
        _submit_runs(runs, request, machine)
    return DONE


def _print_runs(runs: Sequence[BatchRun], request: Request, machine: Machine) -> None:
    command = shlex.join(open_scheduler(machine.scheduler).submit_command(request.dependency))
    for run in runs:
        print(run.files["script.sh"], end="", flush=True)
        _remark(f"would run: cd {shlex.quote(str(run.batch.folder))} && {command}")
    _remark_on(choose_environment(machine, os.environ))
    _remark("nothing was submitted")


def _submit_runs(runs: Sequence[BatchRun], request: Request, machine: Machine) -> None:
    """Submit all runs, or none if one cannot run; if the batch system refuses one, those before it stay."""
    environment = choose_environment(machine, os.environ)
    for run in runs:
        _check_free(run.batch, run.job, request)
    check_installed(open_scheduler(machine.scheduler).submit_command(None)[0])
    largest = max(runs, key=lambda run: run.submission.ranks)
    check_samples(largest.job, machine, largest.submission.ranks)
    if not request.force:
        _check_before(runs, environment.variables)
    for n_submitted, run in enumerate(runs):
        batch, submission = run.batch, run.submission
        try:
            job_id = batch.submit(submission, run.files, request.dependency, environment.variables)
        except UserError as problem:
            if not n_submitted:
                raise
            folder = shlex.quote(os.path.commonpath([run.batch.run for run in runs]))
            raise UserError(
                f"{batch.run}: {problem}; {n_submitted} of {len(runs)} jobs were submitted before; kakurenbo "
                f"status {folder} lists them"
            ) from None
        size = f"{submission.nodes} x {machine.ranks_per_node} ranks, {format_clock(submission.walltime_s)}"
        print_line(f"job {job_id}: {submission.name} on {machine.name}, {size}")
        print_line(f"log: {batch.log}")
        print_line(f"follow: kakurenbo logs --follow {shlex.quote(str(batch.run))}")
    _remark_on(environment)


def _check_before(runs: Sequence[BatchRun], environment: Mapping[str, str]) -> None:
    """Check one run of each size: seeds change nothing that is checked."""
    for run in {run.script.nodes: run for run in runs}.values():
        try:
            check_submission(run.script, run.job, environment)
        except UserError as problem:
            raise type(problem)(f"{problem}; --force submits all the same") from None


def _check_python(machine: Machine) -> None:
    """Raise JobError if the Python of the machine file does not exist.

    An environment on the nodes' own disks cannot be seen from here.
    """
    if machine.python and Path(machine.python).parent.is_dir() and not os.access(python_of(machine), os.X_OK):
        raise JobError(
            f"{machine.name}: python is {machine.python}, which contains no bin/python; correct it in the "
            "machine file"
        )


def _list_runs(read_job: ReadJob, request: Request, machine: Machine) -> Iterator[BatchRun]:
    walltime_s = check_walltime(request.walltime, machine)
    if len(request.nodes) > 1 and request.scaling is None:
        raise UserError(
            "--nodes gives several sizes; say with --scaling strong or weak what stays the same, or give one"
        )
    seeds: Sequence[int | None] = request.seeds or (None,)
    for n_nodes, seed in product(request.nodes, seeds):
        yield _make_run(read_job, request, machine, n_nodes, seed, walltime_s)


def _make_run(
    read_job: ReadJob, request: Request, machine: Machine, n_nodes: int, seed: int | None, walltime_s: int
) -> BatchRun:
    ranks_per_node = machine.ranks_per_node or 1
    n_ranks = n_nodes * ranks_per_node
    overrides = [*request.overrides, *([f"seed={seed}"] if seed is not None else [])]
    job = read_job(overrides)
    if request.scaling is not None:
        n_smallest = min(request.nodes) * ranks_per_node
        job = read_job(overrides + _batch_overrides(job, n_smallest, request.scaling))
    check_job_fits(job, machine, n_ranks)
    steps = [f"nodes_{n_nodes:04d}"] if request.scaling is not None else []
    steps += [f"seed_{seed}"] if seed is not None else []
    name = request.name or job.name
    run_dir = Path(request.run_dir or Path("runs") / name, *steps).absolute()
    for path in (run_dir, Path.cwd()):
        _check_utf8(path)
    script = Script(
        "_".join([name, *steps]),
        n_nodes,
        walltime_s,
        machine,
        run_dir,
        Path.cwd(),
        python_of(machine),
        request.allow_changes,
    )
    files = {
        "job.yaml": dump_yaml(job.as_dict()),
        "machine.yaml": dump_yaml(machine.model_dump(mode="json")),
        "script.sh": script.text(),
    }
    submission = Submission(
        machine.scheduler, script.name, machine.name, n_nodes, n_ranks, walltime_s, request.scaling, seed
    )
    return BatchRun(BatchFolder(run_dir), job, script, submission, files)


def _batch_overrides(job: Job, n_ranks: int, scaling: str) -> list[str]:
    """Return overrides that keep the batch on n_ranks: the global (strong) or each rank's (weak)."""
    batch = global_batch(job, n_ranks)
    if scaling == "strong":
        if job.training.lr_scaling == "ranks":
            raise JobError(
                f"{job.name}: --scaling strong keeps the global batch, but training.lr_scaling is ranks, "
                "which raises the learning rate with the number of ranks; set it to none, or use weak"
            )
        return [f"training.global_batch={batch}", "training.batch_per_rank=null"]
    batch_per_rank = batch // (n_ranks * job.training.accumulate)
    return [f"training.batch_per_rank={batch_per_rank}", "training.global_batch=null"]


def _check_utf8(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise RunDirectoryError(
            f"{path}: not UTF-8, and a batch script is; rename it, or give another --run-dir"
        ) from None


def _check_free(batch: BatchFolder, job: Job, request: Request) -> None:
    """Raise RunDirectoryError if a run there is in the queue, or may not be resumed as this job."""
    run = batch.run
    check_place(run)
    if (batch.folder / "jobs.txt").exists():
        state = batch.state
        if state.status not in ENDED:
            raise RunDirectoryError(
                f"{run}: job {batch.job_ids[-1]} is {state.status}; wait, or end it with kakurenbo cancel"
            )
    if (run / "job.yaml").exists():
        if not request.resume:
            raise RunDirectoryError(f"{run}: a run is there; add --resume, or give another --run-dir")
        if not request.allow_changes:
            check_same(run / "job.yaml", job)


def _remark_on(environment: JobEnvironment) -> None:
    if environment.passed:
        _remark(f"passed on to the batch system: {', '.join(environment.passed)}")
    if environment.withheld_defaults:
        _remark(f"withheld, the script says otherwise: {', '.join(environment.withheld_defaults)}")


def _remark(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
