"""Commands that start ranks or run on them: train, launch, score, compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.signals import record_signals
from ..errors import DONE, UserError
from .arguments import (
    AllowChanges,
    JobArgument,
    MachineOption,
    Overrides,
    Resume,
    RunDir,
    Scaling,
    Scratch,
    expand,
    read_job,
)
from .ranks import read_job_together, run_on_ranks

if TYPE_CHECKING:
    from ..compare.spec import Comparison, Entry
    from ..config.job import Job
    from ..distributed.comm import Comm

Nodes = Annotated[
    int | None, typer.Option(min=1, max=1_000_000, help="Inside a batch job: the nodes to start ranks on.")
]
Oversubscribe = Annotated[
    bool, typer.Option("--oversubscribe", help="Start even more than eight ranks a core.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the command line and start nothing.")]


def train(
    job: JobArgument,
    run_dir: RunDir = None,
    overrides: Overrides = None,
    resume: Resume = False,
    allow_changes: AllowChanges = False,
    scratch: Scratch = None,
) -> int:
    """Train a job, as one of the ranks that mpirun, srun or torchrun started, or alone."""
    record_signals()

    def work(comm: Comm) -> int:
        checked = read_job_together(comm, job, overrides)
        from ..engine.run import run

        return run(checked, run_dir or Path("runs") / checked.name, comm, resume, scratch, allow_changes)

    return run_on_ranks(work)


def launch(
    job: JobArgument,
    ranks: Annotated[
        str | None,
        typer.Option(
            help="Ranks to start; as many as the nodes take if not given. Several numbers, 1,2,4, make a "
            "sweep, one run after another."
        ),
    ] = None,
    scaling: Scaling = None,
    machine: MachineOption = "local",
    nodes: Nodes = None,
    run_dir: RunDir = None,
    overrides: Overrides = None,
    resume: Resume = False,
    allow_changes: AllowChanges = False,
    oversubscribe: Oversubscribe = False,
    dry_run: DryRun = False,
) -> int:
    """Start ranks, here or on the nodes of the surrounding batch job, and train a job on them."""
    from ..cluster.launch import launch as start
    from ..cluster.machine import read_machine
    from ..cluster.request import parse_ranks
    from ..cluster.sweep import launch_sweep
    from ..config.package_files import find_job

    def start_one(job: Job, job_file: Path, run_dir: Path, n_ranks: int | None, set_to: list[str]) -> int:
        return start(
            job,
            job_file,
            run_dir,
            machine=machine,
            ranks=n_ranks,
            nodes=nodes,
            overrides=set_to,
            resume=resume,
            allow_changes=allow_changes,
            oversubscribe=oversubscribe,
            dry_run=dry_run,
        )

    sizes, set_to = parse_ranks(ranks, scaling), overrides or []
    if scaling is not None:

        def read(more: list[str]) -> Job:
            return read_job(job, [*set_to, *more])

        return launch_sweep(read, read_machine(machine), run_dir, sizes, scaling, start_one, dry_run)
    checked = read_job(job, overrides)
    n_ranks = sizes[0] if sizes else None
    return start_one(checked, find_job(job), run_dir or Path("runs") / checked.name, n_ranks, set_to)


def score(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="el2n, grand, forgetting or random.")],
    job: JobArgument,
    out: Annotated[Path, typer.Option(metavar="PATH", parser=expand, help="The score file to write.")] = Path(
        "scores.h5"
    ),
    epochs: Annotated[
        int | None,
        typer.Option(min=0, help="Epochs of training before samples are scored; the paper's if not given."),
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Initialisations to average over; the paper's if not given.")
    ] = None,
    last_layer: Annotated[
        bool,
        typer.Option("--last-layer", help="grand: the gradient of the last layer alone, for large networks."),
    ] = False,
    overrides: Overrides = None,
) -> int:
    """Score every training sample of a job, for selection.method static. Runs on ranks, as train does."""

    def work(comm: Comm) -> int:
        checked = read_job_together(comm, job, overrides)
        from ..engine.score import score as ask

        about = ask(method, checked, out, comm, epochs, repeats, last_layer)
        if comm.rank == 0:
            print(
                f"{out}: {about.n} scores by {method} in {about.seconds:.1f} s, {about.n_forward} forward, "
                f"{about.n_backward} backward"
            )
        return DONE

    return run_on_ranks(work)


def compare(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A comparison file, or a job with --methods.")],
    methods: Annotated[
        str | None, typer.Option(help="Methods to compare on a job, separated by commas.")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Seeds 1 to this; the file's own if not given, or 3."),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="PATH", parser=expand, help="Where runs and tables are kept.")
    ] = Path("compare"),
    quick: Annotated[bool, typer.Option("--quick", help="The file's smaller size.")] = False,
    overrides: Overrides = None,
) -> int:
    """Run contenders, seeds and controls, and print one table. Runs on ranks, as train does."""
    record_signals()

    def work(comm: Comm) -> int:
        from ..compare.run import compare as run_all
        from ..compare.spec import of_methods, read_comparison
        from ..config.package_files import find_job

        def read() -> tuple[Comparison, dict[str, Entry]]:
            if methods is None:
                return read_comparison(find_job(file), quick, seeds, overrides or [])
            if quick:
                raise UserError(
                    "compare: --quick and --methods are both given, but only a comparison file has a "
                    "smaller size; choose one"
                )
            return of_methods(file, methods.split(","), seeds or 3, overrides or [])

        # Every rank reads: a method of another package must be imported before an instance of it can arrive.
        return run_all(*comm.run_or_raise_together(read), out, comm)

    return run_on_ranks(work)
