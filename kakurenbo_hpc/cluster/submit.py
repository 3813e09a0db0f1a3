"""Submission of jobs to a batch system: one run, or a sweep over nodes and seeds."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..config.job import Job
from ..errors import DONE, JobError, RunDirectoryError, UserError
from ..rundir.console import print_line
from ..rundir.job_diff import check_same
from ..rundir.path_checks import check_place
from .batch_job import BatchJob, BatchRun, as_jobs, run_files, submit_job
from .job_environment import JobEnvironment, choose_environment
from .job_states import find_states, wait_for_end
from .launch_checks import check_job_fits, check_node, check_samples
from .machine import Machine
from .preflight import check_submission
from .request import Request
from .schedulers import open_scheduler
from .schedulers.commands import check_installed
from .schedulers.scheduler import ENDED, JobState
from .script import Script, python_of
from .submission import BatchFolder, Submission
from .sweep import ReadJob, scaled_overrides
from .walltime import check_walltime, format_clock


def submit(read_job: ReadJob, request: Request, dry_run: bool) -> int:
    """Submit all runs of a request, or, on a dry run, print their scripts on stdout, the commands on stderr.

    Raises:
        UserError: one of them cannot run (before any is submitted), or the batch system refuses one.
    """
    machine = request.read_machine()
    return submit_jobs([*_list_jobs(read_job, request, machine)], request, machine, dry_run)


def submit_jobs(jobs: Sequence[BatchJob], request: Request, machine: Machine, dry_run: bool = False) -> int:
    """Submit batch jobs, or, on a dry run, print them; a job waits for those before it that it names.

    Raises:
        UserError: as ``submit``.
    """
    if dry_run:
        _print_jobs(jobs, request, machine)
        return DONE
    if machine.untried:
        _remark(f"{machine.name}: not tried on site; {machine.untried}")
    environment = choose_environment(machine, os.environ)
    runs = [run for job in jobs for run in job.runs]
    _check_free(runs, request)
    check_installed(open_scheduler(machine.scheduler).submit_command(None)[0])
    largest = max(runs, key=lambda run: run.submission.ranks)
    check_samples(largest.job, machine, largest.submission.ranks)
    if not request.force:
        _check_before(jobs, environment.variables)
    accepted: dict[Path, str] = {}
    for job in jobs:
        dependency = _dependency(job.script, request, accepted)
        try:
            job_ids = submit_job(job, dependency, environment.variables)
        except UserError as problem:
            if not accepted:
                raise
            folder = shlex.quote(os.path.commonpath([run.batch.run for run in runs]))
            raise UserError(
                f"{job.script.run}: {problem}; {len(accepted)} of {len(runs)} runs were submitted before; "
                f"kakurenbo status {folder} lists them"
            ) from None
        accepted |= zip((run.batch.run for run in job.runs), job_ids, strict=True)
        _tell(job, job_ids)
    remark_on(environment)
    return wait_for_end([run.batch for run in runs]) if request.wait else DONE


def base_script(
    name: str,
    folder: Path,
    n_nodes: int,
    request: Request,
    machine: Machine,
    work: tuple[str, ...] = (),
    options: tuple[str, ...] | None = None,
) -> Script:
    """Return the script of a run, or of an array of runs below a folder.

    Raises:
        UserError: its walltime is too short, a path cannot stand in a script, or its Python does not exist.
    """
    _check_python(machine)
    for path in (folder, Path.cwd()):
        _check_utf8(path)
    return Script(
        name,
        n_nodes,
        check_walltime(request.walltime, machine),
        machine,
        folder,
        Path.cwd(),
        python_of(machine),
        request.allow_changes,
        work,
        options,
        after=(request.after.absolute(),) if request.after else (),
        after_done=request.after is not None,
        restarts=request.restarts,
    )


def make_run(
    job: Job, run: Path, script: Script, request: Request, seed: int | None = None, is_run: bool = True
) -> BatchRun:
    """Return a run of a script's size, or other work. Raises RunDirectoryError if its path is not UTF-8."""
    _check_utf8(run)
    machine = script.machine
    submission = Submission(
        *(machine.scheduler, script.name, machine.name, script.nodes),
        ranks_on(script.nodes, machine),
        script.walltime_s,
        request.scaling,
        seed,
        job.training.epochs if is_run else None,
    )
    return BatchRun(BatchFolder(run), job, submission, run_files(job, script))


def ranks_on(n_nodes: int, machine: Machine) -> int:
    """Return the ranks on full nodes."""
    return n_nodes * (machine.ranks_per_node or 1)


def remark_on(environment: JobEnvironment) -> None:
    """Print which variables the batch system's commands get, and which not."""
    if environment.passed:
        _remark(f"passed on to the batch system: {', '.join(environment.passed)}")
    if environment.withheld_defaults:
        _remark(f"withheld, the script says otherwise: {', '.join(environment.withheld_defaults)}")


def _list_jobs(read_job: ReadJob, request: Request, machine: Machine) -> Iterator[BatchJob]:
    if len(request.nodes) > 1 and request.scaling is None:
        raise UserError(
            "--nodes gives several sizes; say with --scaling strong or weak what stays the same, or give one"
        )
    check_node(machine)
    n_smallest = ranks_on(min(request.nodes), machine)
    for n_nodes in request.nodes:
        seeds: Sequence[int | None] = request.array.seeds or (None,)
        jobs = [_job_of(read_job, request, n_smallest, seed) for seed in seeds]
        for job in jobs:
            check_job_fits(job, machine, ranks_on(n_nodes, machine))
        steps = [f"nodes_{n_nodes:04d}"] if request.scaling is not None else []
        name = request.name or jobs[0].name
        folder = Path(request.run_dir or Path("runs") / name, *steps).absolute()
        script = base_script("_".join([name, *steps]), folder, n_nodes, request, machine)
        if seeds == (None,):
            yield BatchJob(script, (make_run(jobs[0], folder, script, request),))
            continue
        runs = []
        for job, seed in zip(jobs, seeds, strict=True):
            own = replace(script, name=f"{script.name}_seed_{seed}")
            runs.append(make_run(job, folder / f"seed_{seed}", own, request, seed))
        yield from as_jobs(script, runs, request.array.limit)


def _job_of(read_job: ReadJob, request: Request, n_smallest: int, seed: int | None) -> Job:
    overrides = [*request.overrides, *([f"seed={seed}"] if seed is not None else [])]
    job = read_job(overrides)
    if request.scaling is not None:
        job = read_job(overrides + scaled_overrides(job, n_smallest, request.scaling))
    return job


def _dependency(script: Script, request: Request, accepted: Mapping[Path, str]) -> str | None:
    """Return what a job waits for, in the batch system's own syntax.

    Args:
        script: of the job.
        request: may name more that it waits for.
        accepted: job ids of the runs that were submitted just now.
    """
    scheduler = open_scheduler(script.machine.scheduler)
    found = [request.dependency] if request.dependency else []
    if own := [job_id for run, job_id in accepted.items() if run in script.after]:
        found.append(scheduler.after(own, script.after_done))
    elif request.after and (job_id := _job_before(request.after, script.machine)):
        found.append(scheduler.after([job_id], when_done=True))
    return ",".join(found) or None


def _job_before(run: Path, machine: Machine) -> str | None:
    """Return the newest job of a run that is waited for; None if it is done.

    Raises:
        UserError: it has failed, or is another batch system's.
    """
    batch = BatchFolder(run)
    if (system := batch.read().system) != machine.scheduler:
        raise UserError(f"--after {run}: a run of {system}, which {machine.scheduler} does not know")
    state = batch.state
    if state.status == "done":
        return None
    if state.status in ENDED:
        raise UserError(f"--after {run}: {state.status} ({state.detail}), so nothing begins after it")
    return batch.job_ids[-1]


def _print_jobs(jobs: Sequence[BatchJob], request: Request, machine: Machine) -> None:
    scheduler = open_scheduler(machine.scheduler)
    for job in jobs:
        *command, script = scheduler.submit_command(request.dependency)
        words = shlex.join([*command, *job.array_options, script])
        after = f", after {', '.join(map(str, job.script.after))}" * bool(job.script.after)
        print(job.script.text(), end="", flush=True)
        _remark(f"would run: cd {shlex.quote(str(BatchFolder(job.script.run).folder))} && {words}{after}")
    remark_on(choose_environment(machine, os.environ))
    _remark("nothing was submitted")


def _tell(job: BatchJob, job_ids: Sequence[str]) -> None:
    script, first = job.script, job.runs[0]
    size = f"{script.nodes} x {script.machine.ranks_per_node} ranks, {format_clock(script.walltime_s)}"
    run = shlex.quote(str(script.run))
    name, machine = first.submission.name, script.machine.name
    if script.runs:
        limit = f", {job.limit} at a time" if job.limit else ""
        print_line(f"jobs {job_ids[0]} to {job_ids[-1]}: {script.name} on {machine}, each {size}{limit}")
        print_line(f"status: kakurenbo status {run}")
        return
    print_line(f"job {job_ids[0]}: {name} on {machine}, {size}")
    print_line(f"log: {first.batch.log}")
    print_line(f"follow: kakurenbo logs --follow {run}")


def _check_before(jobs: Sequence[BatchJob], environment: Mapping[str, str]) -> None:
    """Check one run of each size: seeds change nothing that is checked."""
    for job in {job.script.nodes: job for job in jobs}.values():
        try:
            check_submission(job.script, job.runs[0].job, environment)
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


def _check_utf8(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise RunDirectoryError(
            f"{path}: not UTF-8, and a batch script is; rename it, or give another --run-dir"
        ) from None


def _check_free(runs: Sequence[BatchRun], request: Request) -> None:
    """Raise RunDirectoryError if a run there is in the queue, or may not be resumed as this job."""
    for run in runs:
        check_place(run.batch.run)
    submitted = [run.batch for run in runs if (run.batch.folder / "jobs.txt").exists()]
    states = find_states(submitted)
    for run in runs:
        state = states.get(run.batch.run)
        if isinstance(state, UserError):
            raise state
        if isinstance(state, JobState) and state.status not in ENDED:
            raise RunDirectoryError(
                f"{run.batch.run}: job {run.batch.job_ids[-1]} is {state.status}; wait, or end it with "
                "kakurenbo cancel"
            )
        if (run.batch.run / "job.yaml").exists():
            if not request.resume:
                raise RunDirectoryError(
                    f"{run.batch.run}: a run is there; add --resume, or give another --run-dir"
                )
            if not request.allow_changes:
                check_same(run.batch.run / "job.yaml", run.job)


def _remark(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
