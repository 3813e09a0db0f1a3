"""Commands that start ranks or run on them: train, launch, score, compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.signals import record_signals
from ..errors import DONE
from .arguments import (
    AllowChanges,
    ComparisonFile,
    JobArgument,
    MachineOption,
    Nodes,
    Overrides,
    Oversubscribe,
    Restarts,
    Resume,
    RunDir,
    Scaling,
    ScoreMethod,
    Scratch,
    read_job,
    set_words,
)
from .option_groups import CompareOptions, ScoreOptions, StartOptions
from .ranks import read_job_together, run_on_ranks

if TYPE_CHECKING:
    from ..compare.entries import Entry
    from ..compare.spec import Comparison
    from ..config.job import Job
    from ..distributed.comm import Comm

StartDryRun = Annotated[bool, typer.Option("--dry-run", help="Print the command line and start nothing.")]


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
    restarts: Restarts = 0,
    dry_run: StartDryRun = False,
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
            restarts=restarts,
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


def score(method: ScoreMethod, job: JobArgument, scoring: ScoreOptions, overrides: Overrides = None) -> int:
    """Score every training sample of a job, for selection.method static. Runs on ranks, as train does."""

    def work(comm: Comm) -> int:
        checked = read_job_together(comm, job, overrides)
        recipe = comm.run_or_raise_together(lambda: scoring.recipe(method))
        from ..engine.score import score as ask

        about = ask(recipe, checked, scoring.out, comm)
        if comm.rank == 0:
            print(
                f"{scoring.out}: {about.n} scores by {method} in {about.seconds:.1f} s, {about.n_forward} "
                f"forward, {about.n_backward} backward"
            )
            if about.n_filled >= 0:
                n_kept = about.n - int(about.fraction * about.n)
                print(f"{about.n_filled / max(1, n_kept):.1%} of the subset were only drawn to fill it up")
        return DONE

    return run_on_ranks(work)


def compare(file: ComparisonFile, comparing: CompareOptions, scratch: Scratch = None) -> int:
    """Run contenders, seeds and controls, and print one table. Runs on ranks, as train does."""
    record_signals()

    def work(comm: Comm) -> int:
        from ..compare.entries import list_entries
        from ..compare.run import compare as run_all

        def read() -> tuple[Comparison, dict[str, Entry]]:
            comparison, jobs = comparing.load(file)
            return comparison, list_entries(comparison, jobs, file)

        # Every rank reads: a method of another package must be imported before an instance of it can arrive.
        comparison, entries = comm.run_or_raise_together(read)
        code = run_all(comparison, entries, comparing.out, comm, scratch)
        if comm.rank == 0 and comparison.pictures:
            from ..report.command import draw_pictures

            draw_pictures(comparing.out / comparison.name, comparison.pictures)
        return code

    return run_on_ranks(work)


def launch_score(
    method: ScoreMethod,
    job: JobArgument,
    starting: StartOptions,
    scoring: ScoreOptions,
    overrides: Overrides = None,
) -> int:
    """Start ranks, as launch does, and score the samples of a job on them."""
    from ..cluster.work import launch_score as start
    from ..config.package_files import find_job

    checked = read_job(job, overrides)
    scoring.check(method)
    words = [*scoring.words(), *set_words(overrides)]
    return start(method, checked, find_job(job), words, starting.start())


def launch_compare(file: ComparisonFile, starting: StartOptions, comparing: CompareOptions) -> int:
    """Start ranks, as launch does, and run a comparison on them."""
    from ..cluster.machine import read_machine
    from ..cluster.work import launch_work
    from ..compare.entries import list_entries
    from ..config.package_files import find_job

    entries = list_entries(*comparing.load(file), file)
    words = ["compare", str(find_job(file)), *comparing.words()]
    scratch = read_machine(starting.machine).scratch
    words += ["--scratch", scratch] if scratch else []
    return launch_work(words, [entry.job for entry in entries.values()], comparing.out, starting.start())
