"""Commands of the login node: submit, status, logs, cancel, doctor, machines."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError
from .arguments import (
    AllowChanges,
    JobArgument,
    MachineOption,
    Overrides,
    Resume,
    RunArgument,
    RunDir,
    expand,
    read_job,
)
from .output import output_is_all


def submit(
    job: JobArgument,
    machine: MachineOption,
    walltime: Annotated[str, typer.Option(help="The most time that it takes: 2h, 90m, 1d or HH:MM:SS.")],
    nodes: Annotated[str, typer.Option(help="Nodes; several sizes, 1,2,4, make a sweep.")] = "1",
    scaling: Annotated[
        str | None, typer.Option(help="Of a sweep, what is kept: strong, the global batch; weak, a rank's.")
    ] = None,
    array_of_seeds: Annotated[
        str | None, typer.Option(metavar="SEEDS", help="A job for each of these seeds: 1,2,3.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the run; the job's if not given.")] = None,
    dependency: Annotated[
        str | None,
        typer.Option(
            help="Start after another job, in the batch system's syntax: afterok:ID. On PBS a requeued "
            "run has a new id."
        ),
    ] = None,
    run_dir: RunDir = None,
    overrides: Overrides = None,
    resume: Resume = False,
    allow_changes: AllowChanges = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the script and the command, and submit nothing.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Skip the checks of queue, modules and names before it.")
    ] = False,
) -> int:
    """Submit a job to the batch system. A run that its walltime interrupts is requeued until it is done."""
    from ..cluster.submit import Request, parse_numbers
    from ..cluster.submit import submit as start

    request = Request(
        machine=machine,
        nodes=parse_numbers("--nodes", nodes, 1),
        walltime=walltime,
        overrides=tuple(overrides or []),
        name=name,
        run_dir=run_dir,
        dependency=dependency,
        seeds=parse_numbers("--array-of-seeds", array_of_seeds, 0) if array_of_seeds is not None else (),
        scaling=scaling,
        resume=resume,
        allow_changes=allow_changes,
        force=force,
    )
    with output_is_all() if dry_run else contextlib.nullcontext():
        return start(lambda overrides: read_job(job, overrides), request, dry_run)


def status(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", parser=expand, help="A run directory, or a folder of runs."),
    ] = None,
    all_runs: Annotated[bool, typer.Option("--all", help="All runs below runs/.")] = False,
) -> int:
    """Print the state of submitted runs."""
    from ..cluster.status import status as how

    if (run is None) != all_runs:
        raise UserError("status: name a run directory, or say --all for all below runs/; one of them")
    with output_is_all():
        return how(run or Path("runs"))


def logs(
    run: RunArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Follow the log until the job has ended.")] = False,
) -> int:
    """Print the log of a submitted run."""
    from ..cluster.status import logs as show

    with output_is_all():
        return show(run, follow)


def cancel(run: RunArgument) -> int:
    """Cancel the job of a submitted run; it is not requeued."""
    from ..cluster.status import cancel as end

    return end(run)


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
    overrides: Overrides = None,
) -> int:
    """Check a machine before a job is queued: OK, WARN or FAIL for each check, and what to do."""
    from ..cluster.doctor.run import doctor as look

    if overrides and not job:
        raise UserError("doctor: --set changes a job, but none is named; name it")
    return look(machine, read_job(job, overrides) if job else None, nodes, ranks, walltime)


def machines() -> None:
    """List the machines that come with the package."""
    from ..cluster.machine import list_machines

    with output_is_all():
        print(list_machines())
