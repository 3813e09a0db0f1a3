"""Commands of the login node: submit, status, logs, cancel, stop, doctor, machines."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError
from .arguments import (
    AllowChanges,
    ComparisonFile,
    JobArgument,
    MachineOption,
    Overrides,
    Restarts,
    Resume,
    RunArgument,
    RunDir,
    Scaling,
    ScoreMethod,
    expand,
    read_job,
)
from .option_groups import CompareOptions, QueueOptions, ScoreOptions
from .output import output_is_all

NodesOfWork = Annotated[int, typer.Option("--nodes", min=1, max=1_000_000, help="Nodes of each job.")]
RunOrFolder = Annotated[
    Path | None, typer.Argument(metavar="RUN", parser=expand, help="A run directory, or a folder of runs.")
]


def submit(
    job: JobArgument,
    queueing: QueueOptions,
    nodes: Annotated[str, typer.Option(help="Nodes; several sizes, 1,2,4, make a sweep.")] = "1",
    scaling: Scaling = None,
    array_of_seeds: Annotated[
        str | None,
        typer.Option(
            metavar="SEEDS",
            help="An array with a run for each of these seeds: 1,2,3 or 1-20; 1-20%4 runs four at a time.",
        ),
    ] = None,
    run_dir: RunDir = None,
    overrides: Overrides = None,
    resume: Resume = False,
    allow_changes: AllowChanges = False,
    restarts: Restarts = 0,
) -> int:
    """Submit a job to the batch system. A run that its walltime interrupts is requeued until it is done."""
    from ..cluster.request import Array, parse_array, parse_numbers
    from ..cluster.submit import submit as start

    request = queueing.request(
        parse_numbers("--nodes", nodes, 1),
        overrides=tuple(overrides or []),
        run_dir=run_dir,
        array=Array() if array_of_seeds is None else parse_array(array_of_seeds),
        scaling=scaling,
        resume=resume,
        allow_changes=allow_changes,
        restarts=restarts,
    )
    with output_is_all() if queueing.dry_run else contextlib.nullcontext():
        return start(lambda overrides: read_job(job, overrides), request, queueing.dry_run)


def submit_score(
    method: ScoreMethod,
    job: JobArgument,
    queueing: QueueOptions,
    scoring: ScoreOptions,
    nodes: NodesOfWork = 1,
    run_dir: RunDir = None,
    overrides: Overrides = None,
) -> int:
    """Submit the scoring of a job's samples. It is not interrupted and resumed: give it time enough."""
    from ..cluster.work import submit_score as start

    request = queueing.request((nodes,), run_dir=run_dir)
    with output_is_all() if queueing.dry_run else contextlib.nullcontext():
        checked = read_job(job, overrides)
        scoring.check(method)
        return start(method, checked, scoring.words(), request, queueing.dry_run)


def submit_compare(
    file: ComparisonFile,
    queueing: QueueOptions,
    comparing: CompareOptions,
    nodes: NodesOfWork = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="How many runs may run at a time.")] = None,
) -> int:
    """Submit a comparison: an array of its runs, and a job after it that writes the table."""
    from ..cluster.request import Array
    from ..compare.queue import submit_comparison

    request = queueing.request((nodes,), array=Array(limit=limit))
    comparison, jobs = comparing.load(file)
    with output_is_all() if queueing.dry_run else contextlib.nullcontext():
        return submit_comparison(comparison, jobs, comparing.out, request, queueing.dry_run)


def status(
    run: RunOrFolder = None,
    all_runs: Annotated[bool, typer.Option("--all", help="All runs below runs/.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a list with all runs.")] = False,
) -> int:
    """Print the state of submitted runs: why they wait, how far they have come, when they end."""
    from ..cluster.status import status as how

    if (run is None) != all_runs:
        raise UserError("status: name a run directory, or say --all for all below runs/; one of them")
    with output_is_all():
        return how(run or Path("runs"), as_json)


def logs(
    run: RunOrFolder = None,
    follow: Annotated[bool, typer.Option("--follow", help="Follow the log until the job has ended.")] = False,
    job: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Only what this job has written, of RUN or any run below runs/."),
    ] = None,
) -> int:
    """Print the log of a submitted run."""
    from ..cluster import logs as show

    if run is None and job is None:
        raise UserError("logs: name a run directory, or a job with --job ID")
    if follow and job is not None:
        raise UserError("logs: --follow follows the newest job of a run; leave out --job")
    with output_is_all():
        return show.logs_of_job(run or Path("runs"), job) if job else show.logs(run or Path("runs"), follow)


def cancel(run: RunArgument) -> int:
    """Cancel the job of a submitted run, at once; it is not requeued."""
    from ..cluster.control import cancel as end

    return end(run)


def stop(
    run: RunArgument,
    requeue: Annotated[bool, typer.Option("--requeue", help="Put the run into the queue again.")] = False,
) -> int:
    """Have a run write a checkpoint and leave; it is not requeued."""
    from ..cluster.control import stop as end

    return end(run, requeue)


def doctor(
    job: Annotated[
        str | None,
        typer.Argument(metavar="JOB", help="Check this job's data and size, too."),
    ] = None,
    machine: MachineOption = "local",
    nodes: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Nodes that the job is to have.")
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(
            min=1, max=1_000_000, help="Inside a batch job: start so many, check each, and measure."
        ),
    ] = None,
    walltime: Annotated[str | None, typer.Option(help="The time that the job is to have.")] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            parser=expand,
            help="Run directory of the job: keep what is found in it, for the run's report.",
        ),
    ] = None,
    overrides: Overrides = None,
) -> int:
    """Check a machine before a job is queued: OK, WARN or FAIL for each check, and what to do."""
    from ..cluster.doctor.run import doctor as look

    if overrides and not job:
        raise UserError("doctor: --set changes a job, but none is named; name it")
    return look(machine, read_job(job, overrides) if job else None, nodes, ranks, walltime, run_dir)


def machines(
    detect: Annotated[
        bool, typer.Option("--detect", help="Name the one that this login node belongs to.")
    ] = False,
) -> None:
    """List the machines that come with the package."""
    from ..cluster.machine import detect_machine, list_machines

    if not detect:
        with output_is_all():
            print(list_machines())
        return
    host = socket.getfqdn()
    if (name := detect_machine(host)) is None:
        raise UserError(
            f"machines --detect: {host} is no login node of a machine that comes with the package; copy the "
            "nearest one: kakurenbo new machine NAME --out FILE"
        )
    with output_is_all():
        print(name)
