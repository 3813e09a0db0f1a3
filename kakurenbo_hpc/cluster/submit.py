"""From a job and a machine to jobs in the queue: one, or a sweep over nodes and seeds."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import yaml

from ..config.job import Job
from ..errors import DONE, JobError, RunDirectoryError, UserError
from ..rundir.console import print_line
from ..rundir.job_diff import check_same
from ..rundir.path_checks import check_place
from .machine import Machine, read_machine, word
from .schedulers.scheduler import check_there
from .script import Script, python_of
from .submission import ENDED, SCHEDULERS, BatchFolder, Submission
from .walltime import clock, fitting_walltime

Part = tuple[
    BatchFolder, Job, Submission, dict[str, str]
]  # where a job runs, what it is, and the files that it needs


@dataclass(frozen=True)
class Request:
    """What a person asked for. nodes: one size, or those of a sweep; scaling: strong or weak. name, run_dir: of the run, or of the sweep.

    Raises UserError for the first that is wrong.
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

    def __post_init__(self):
        if self.scaling not in (None, "strong", "weak"):
            raise UserError(
                f"--scaling is {self.scaling}, but must be strong (the global batch stays) or weak (that of each rank stays)"
            )
        if self.dependency is not None:
            try:
                word(self.dependency)
            except ValueError as problem:
                raise UserError(
                    f"--dependency is {self.dependency!r}, but {problem}; for example afterok:12"
                ) from None
        name = self.name
        if name is not None and (
            not name.strip(". ") or "/" in name or not name.isprintable() or len(name) > 100
        ):
            raise UserError(
                f"--name is {name[:60]!r}, but a run's folder cannot be called so; give 1 to 100 characters, no '/'"
            )


def numbers(option: str, text: str, least: int) -> tuple[int, ...]:
    """Return the numbers of an option. Raises UserError unless they are different whole numbers, from the least on."""
    found = tuple(int(part) for part in text.split(",") if re.fullmatch("[0-9]{1,9}", part))
    if len(found) != text.count(",") + 1 or min(found) < least or len(set(found)) < len(found):
        raise UserError(
            f"{option} is {text!r}, but must be different whole numbers from {least} on; for example 1,2,4"
        )
    return found


def submit(read: Callable[[list[str]], Job], request: Request, dry_run: bool) -> int:
    """Submit all jobs of a request, or, on a dry run, print their scripts on stdout and the commands on stderr.

    read: from overrides to the job. Raises UserError, before anything is submitted, if one of them cannot be run.
    """
    machine = read_machine(request.machine)
    if machine.scheduler == "none":
        raise UserError(
            f"{machine.name} has no batch system; start here with kakurenbo launch, or choose another --machine"
        )
    _check_python(machine)
    (_show if dry_run else _hand_in)(list(_parts(read, request, machine)), request, machine)
    return DONE


def _show(parts: list[Part], request: Request, machine: Machine) -> None:
    command = SCHEDULERS[machine.scheduler].submit_words(request.dependency)
    for batch, _, _, files in parts:
        print(files["script.sh"], end="", flush=True)
        _remark(f"would run: cd {shlex.quote(str(batch.folder))} && {shlex.join(command)}")
    _remark("nothing was submitted")


def _hand_in(parts: list[Part], request: Request, machine: Machine) -> None:
    """Submit all of them, or none where one cannot be run. Raises UserError where the batch system refuses one: those before it stay."""
    for batch, job, _, _ in parts:
        _check_free(batch, job, request)
    check_there(SCHEDULERS[machine.scheduler].submit_words(None)[0])
    for n_submitted, (batch, _, submission, files) in enumerate(parts):
        try:
            batch.prepare(submission, files)
            job_id = batch.submit(request.dependency)
        except UserError as problem:
            if not n_submitted:
                raise
            folder = os.path.commonpath([batch.run for batch, _, _, _ in parts])
            those = f"{n_submitted} of {len(parts)} jobs were submitted before; kakurenbo status {shlex.quote(folder)} lists them"
            raise UserError(f"{batch.run}: {problem}; {those}") from None
        size = f"{submission.nodes} x {machine.ranks_per_node} ranks, {clock(submission.walltime_s)}"
        print_line(f"job {job_id}: {submission.name} on {machine.name}, {size}")
        print_line(f"log: {batch.log}")
        print_line(f"follow: kakurenbo logs --follow {shlex.quote(str(batch.run))}")


def _check_python(machine: Machine) -> None:
    """Raise JobError if the Python of the machine file is not there. An environment on the nodes' own disks cannot be seen from here."""
    if machine.python and Path(machine.python).parent.is_dir() and not os.access(python_of(machine), os.X_OK):
        raise JobError(
            f"{machine.name}: python is {machine.python}, which holds no bin/python; correct it in the machine file"
        )


def _parts(read: Callable[[list[str]], Job], request: Request, machine: Machine) -> Iterator[Part]:
    """Yield each job of the request."""
    walltime_s = fitting_walltime(request.walltime, machine)
    if len(request.nodes) > 1 and request.scaling is None:
        raise UserError(
            "--nodes gives several sizes; say with --scaling strong or weak what stays the same, or give one"
        )
    sweep = request.scaling is not None
    for nodes, seed in product(request.nodes, request.seeds or (None,)):
        ranks = nodes * machine.ranks_per_node
        overrides = list(request.overrides) + ([f"seed={seed}"] if seed is not None else [])
        job = read(overrides)
        if sweep:
            smallest = min(request.nodes) * machine.ranks_per_node
            job = read(overrides + _same_batch(job, smallest, request.scaling))
        check_fits(job, machine, ranks)
        steps = ([f"nodes_{nodes:04d}"] if sweep else []) + ([f"seed_{seed}"] if seed is not None else [])
        name = request.name or job.name
        run = Path(request.run_dir or Path("runs") / name, *steps).absolute()
        for path in (run, Path.cwd()):
            _check_utf8(path)
        script = Script(
            "_".join([name, *steps]),
            nodes,
            walltime_s,
            machine,
            run,
            Path.cwd(),
            python_of(machine),
            request.allow_changes,
        )
        files = {
            "job.yaml": yaml.safe_dump(job.as_dict(), sort_keys=False),
            "machine.yaml": yaml.safe_dump(machine.model_dump(mode="json"), sort_keys=False),
            "script.sh": script.text(),
        }
        submission = Submission(
            machine.scheduler, script.name, machine.name, nodes, ranks, walltime_s, request.scaling, seed
        )
        yield BatchFolder(run), job, submission, files


def _same_batch(job: Job, smallest: int, scaling: str) -> list[str]:
    """Return overrides that keep the batch of the smallest size: the global one (strong), or that of each rank (weak)."""
    batch = _batch(job, smallest)
    if scaling == "strong":
        return [f"training.global_batch={batch}", "training.batch_per_rank=null"]
    return [
        f"training.batch_per_rank={batch // (smallest * job.training.accumulate)}",
        "training.global_batch=null",
    ]


def check_fits(job: Job, machine: Machine, ranks: int) -> int:
    """Return the global batch of a job on ranks of a machine. Raises JobError if it cannot run there."""
    if job.data.placement == "local" and machine.scratch is None:
        raise JobError(
            f"{job.name}: data.placement is local, but {machine.name} has no scratch folder; add scratch to its machine file"
        )
    return _batch(job, ranks)


def _batch(job: Job, ranks: int) -> int:
    try:
        return job.training.batch(ranks)
    except ValueError as problem:
        raise JobError(f"{job.name}: {problem}") from None


def _check_utf8(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise RunDirectoryError(
            f"{path}: not UTF-8, and a batch script is; rename it, or give another --run-dir"
        ) from None


def _check_free(batch: BatchFolder, job: Job, request: Request) -> None:
    """Raise RunDirectoryError if a run is there that goes on, or that nobody asked to resume, or to resume as another job."""
    run = batch.run
    check_place(run)
    if (batch.folder / "jobs.txt").exists():
        state = batch.state
        if state.word not in ENDED:
            raise RunDirectoryError(
                f"{run}: job {batch.job_ids[-1]} is {state.word}; wait, or end it with kakurenbo cancel"
            )
    if (run / "job.yaml").exists():
        if not request.resume:
            raise RunDirectoryError(f"{run}: a run is there; add --resume, or give another --run-dir")
        if not request.allow_changes:
            check_same(run / "job.yaml", job)


def _remark(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
