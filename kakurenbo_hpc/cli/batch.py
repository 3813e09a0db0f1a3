"""Commands of the login node: submit, status, logs, cancel, stop, doctor, machines."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError
from .arguments import (
    AllowChanges,
    CompareOut,
    ComparisonFile,
    HoldOut,
    JobArgument,
    LastLayer,
    MachineOption,
    Methods,
    Overrides,
    Quick,
    Restarts,
    Resume,
    RunArgument,
    RunDir,
    Scaling,
    ScoreEpochs,
    ScoreFile,
    ScoreMethod,
    ScoreOptions,
    ScoreRepeats,
    Seeds,
    expand,
    load_comparison,
    read_job,
)
from .output import output_is_all

Name = Annotated[str | None, typer.Option(help="Of the run; the job's if not given.")]
NodesOfWork = Annotated[int, typer.Option("--nodes", min=1, max=1_000_000, help="Nodes of each job.")]
Walltime = Annotated[str, typer.Option(help="The most time that it takes: 2h, 90m, 1d or HH:MM:SS.")]
Dependency = Annotated[
    str | None,
    typer.Option(
        help="Start after another job, in the batch system's syntax: afterok:ID, or singleton (Slurm). A "
        "requeued run has a new id on PBS: use --after."
    ),
]
After = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN", parser=expand, help="Start once this run is done, however often it is requeued before."
    ),
]
Queue = Annotated[str | None, typer.Option(help="Queue (PBS) or partition (Slurm), not the machine file's.")]
Account = Annotated[str | None, typer.Option(help="Account, not the machine file's.")]
Qos = Annotated[str | None, typer.Option(help="Quality of service (Slurm).")]
Reservation = Annotated[str | None, typer.Option(help="A reservation.")]
Mail = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Send mail when the job ends.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the script and the command, and submit nothing.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Skip the checks of queue, modules and names before it.")
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait for the end, requeues included; exit with the run's code.")
]
RunOrFolder = Annotated[
    Path | None, typer.Argument(metavar="RUN", parser=expand, help="A run directory, or a folder of runs.")
]


def submit(
    job: JobArgument,
    machine: MachineOption,
    walltime: Walltime,
    nodes: Annotated[str, typer.Option(help="Nodes; several sizes, 1,2,4, make a sweep.")] = "1",
    scaling: Scaling = None,
    array_of_seeds: Annotated[
        str | None,
        typer.Option(
            metavar="SEEDS",
            help="An array with a run for each of these seeds: 1,2,3 or 1-20; 1-20%4 runs four at a time.",
        ),
    ] = None,
    name: Name = None,
    dependency: Dependency = None,
    after: After = None,
    queue: Queue = None,
    account: Account = None,
    qos: Qos = None,
    reservation: Reservation = None,
    mail: Mail = None,
    run_dir: RunDir = None,
    overrides: Overrides = None,
    resume: Resume = False,
    allow_changes: AllowChanges = False,
    restarts: Restarts = 0,
    dry_run: DryRun = False,
    force: Force = False,
    wait: Wait = False,
) -> int:
    """Submit a job to the batch system. A run that its walltime interrupts is requeued until it is done."""
    from ..cluster.request import Array, Request, parse_array, parse_numbers
    from ..cluster.schedulers.scheduler import Options
    from ..cluster.submit import submit as start

    request = Request(
        machine=machine,
        nodes=parse_numbers("--nodes", nodes, 1),
        walltime=walltime,
        overrides=tuple(overrides or []),
        name=name,
        run_dir=run_dir,
        dependency=dependency,
        after=after,
        array=Array() if array_of_seeds is None else parse_array(array_of_seeds),
        scaling=scaling,
        queue=queue,
        account=account,
        options=Options(qos, reservation, mail),
        resume=resume,
        allow_changes=allow_changes,
        restarts=restarts,
        force=force,
        wait=wait,
    )
    with output_is_all() if dry_run else contextlib.nullcontext():
        return start(lambda overrides: read_job(job, overrides), request, dry_run)


def submit_score(
    method: ScoreMethod,
    job: JobArgument,
    machine: MachineOption,
    walltime: Walltime,
    nodes: NodesOfWork = 1,
    out: ScoreFile = Path("scores.h5"),
    epochs: ScoreEpochs = None,
    repeats: ScoreRepeats = None,
    last_layer: LastLayer = False,
    hold_out: HoldOut = None,
    method_options: ScoreOptions = None,
    name: Name = None,
    dependency: Dependency = None,
    after: After = None,
    queue: Queue = None,
    account: Account = None,
    qos: Qos = None,
    reservation: Reservation = None,
    mail: Mail = None,
    run_dir: RunDir = None,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    force: Force = False,
    wait: Wait = False,
) -> int:
    """Submit the scoring of a job's samples. It is not interrupted and resumed: give it time enough."""
    from ..cluster.request import Request
    from ..cluster.schedulers.scheduler import Options
    from ..cluster.work import submit_score as start

    request = Request(
        machine=machine,
        nodes=(nodes,),
        walltime=walltime,
        name=name,
        run_dir=run_dir,
        dependency=dependency,
        after=after,
        queue=queue,
        account=account,
        options=Options(qos, reservation, mail),
        force=force,
        wait=wait,
    )
    how: dict[str, object] = {
        **{"epochs": epochs, "repeats": repeats, "last-layer": last_layer},
        **{"hold-out": hold_out, "option": method_options},
    }
    with output_is_all() if dry_run else contextlib.nullcontext():
        return start(method, read_job(job, overrides), out, how, request, dry_run)


def submit_compare(
    file: ComparisonFile,
    machine: MachineOption,
    walltime: Walltime,
    nodes: NodesOfWork = 1,
    methods: Methods = None,
    seeds: Seeds = None,
    out: CompareOut = Path("compare"),
    quick: Quick = False,
    limit: Annotated[int | None, typer.Option(min=1, help="How many runs may run at a time.")] = None,
    name: Name = None,
    dependency: Dependency = None,
    after: After = None,
    queue: Queue = None,
    account: Account = None,
    qos: Qos = None,
    reservation: Reservation = None,
    mail: Mail = None,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    force: Force = False,
    wait: Wait = False,
) -> int:
    """Submit a comparison: an array of its runs, and a job after it that writes the table."""
    from ..cluster.request import Array, Request
    from ..cluster.schedulers.scheduler import Options
    from ..compare.queue import submit_comparison

    request = Request(
        machine=machine,
        nodes=(nodes,),
        walltime=walltime,
        name=name,
        dependency=dependency,
        after=after,
        array=Array(limit=limit),
        queue=queue,
        account=account,
        options=Options(qos, reservation, mail),
        force=force,
        wait=wait,
    )
    comparison, jobs = load_comparison(file, methods, quick, seeds, overrides)
    with output_is_all() if dry_run else contextlib.nullcontext():
        return submit_comparison(comparison, jobs, out, request, dry_run)


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
