"""Command line: parses arguments and calls; imports neither torch nor MPI before a run needs them."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from . import __version__
from .core.signals import record_signals
from .errors import DONE, FAILED, USER_ERROR, SampleError, TrainingError, UserError
from .rundir.console import prepare_streams, print_error

if TYPE_CHECKING:
    from .compare.spec import Comparison, Entry
    from .config.job import Job
    from .distributed.comm import Comm

# click's, or the one of the copy that newer versions of typer carry
_UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    help="Train large networks in less time: choose each epoch, across all MPI ranks at once, which samples "
    "deserve a backward pass.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

new_app = typer.Typer(help="Copy a job or a machine file that comes with the package.", no_args_is_help=True)
app.add_typer(new_app, name="new")
data_app = typer.Typer(help="Prepare data.", no_args_is_help=True)
app.add_typer(data_app, name="data")
make_app = typer.Typer(help="Make synthetic data.", no_args_is_help=True)
data_app.add_typer(make_app, name="make")


def _path(text: str | Path) -> Path:
    """Return a path with ~ and variables expanded: no shell does it in --run-dir=~/x."""
    from .config.options import expand_path

    try:
        return Path(expand_path(str(text)))
    except ValueError as problem:
        raise UserError(f"{text}: {problem}") from None


JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="A job file, or the name of one that comes with the package.")
]
RunDir = Annotated[
    Path | None,
    typer.Option(metavar="PATH", parser=_path, help="Where the run is kept; runs/NAME if not given."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the job: --set training.epochs=5."),
]
MachineOption = Annotated[
    str, typer.Option(help="A machine file, or the name of one that comes with the package.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", parser=_path, help="The run directory.")]
Scratch = Annotated[
    str | None,
    typer.Option(help="A folder on each node's own disk, for data.placement local; $TMPDIR may stand in it."),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Resume from the newest checkpoint in the run directory.")
]
AllowChanges = Annotated[
    bool, typer.Option("--allow-changes", help="With --resume: accept a job that differs from the run's.")
]


def _job(path: str, overrides: list[str] | None) -> Job:
    from .config.job import read_job
    from .config.package_files import find_job
    from .data import DATASETS
    from .selection import METHODS

    return read_job(find_job(path), overrides or [], DATASETS, METHODS)


def _job_of_all_ranks(comm: Comm, path: str, overrides: list[str] | None) -> Job:
    """Return the job on every rank; rank 0 alone reads the file. Each rank imports what the job names."""
    from .config.job import check_job
    from .data import DATASETS
    from .selection import METHODS

    values = comm.on_rank_zero(lambda: _job(path, overrides).as_dict())
    return comm.run_or_raise_together(lambda: check_job(values, path, DATASETS, METHODS))


@app.callback(invoke_without_command=True)
def kakurenbo(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Answer --version."""
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
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
        checked = _job_of_all_ranks(comm, job, overrides)
        from .engine.run import run

        return run(checked, run_dir or Path("runs") / checked.name, comm, resume, scratch, allow_changes)

    return _run_on_ranks(work)


@app.command()
def score(
    method: Annotated[
        str, typer.Argument(metavar="METHOD", help="el2n, herding, craig ... (kakurenbo scores lists them).")
    ],
    job: JobArgument,
    out: Annotated[Path, typer.Option(metavar="PATH", parser=_path, help="The score file to write.")] = Path(
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
    hold_out: Annotated[
        str | None,
        typer.Option(metavar="hash:SHARE", help="irreducible: the share to train on, which gets no scores."),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="An option of the method, such as fraction=0.7."),
    ] = None,
    overrides: Overrides = None,
) -> int:
    """Score every training sample of a job, for selection.method static. Runs on ranks, as train does."""
    given = [*(options or []), *["last_layer=true"] * last_layer]

    def work(comm: Comm) -> int:
        checked = _job_of_all_ranks(comm, job, overrides)
        from .engine.score import read_options
        from .engine.score import score as ask

        values = comm.run_or_raise_together(lambda: read_options(method, given, hold_out))
        about = ask(method, checked, out, comm, epochs, repeats, values)
        if comm.rank == 0:
            print(
                f"{out}: {about.n} scores by {method} in {about.seconds:.1f} s, {about.n_forward} forward, "
                f"{about.n_backward} backward"
            )
        return DONE

    return _run_on_ranks(work)


@app.command()
def launch(
    job: JobArgument,
    ranks: Annotated[
        int | None,
        typer.Option(min=1, max=1_000_000, help="Ranks to start; as many as the nodes take if not given."),
    ] = None,
    machine: MachineOption = "local",
    nodes: Annotated[
        int | None,
        typer.Option(min=1, max=1_000_000, help="Inside a batch job: the nodes to start ranks on."),
    ] = None,
    run_dir: RunDir = None,
    overrides: Overrides = None,
    resume: Resume = False,
    allow_changes: AllowChanges = False,
    oversubscribe: Annotated[
        bool, typer.Option("--oversubscribe", help="Start even more than eight ranks a core.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the command line and start nothing.")
    ] = False,
) -> int:
    """Start ranks, here or on the nodes of the surrounding batch job, and train a job on them."""
    from .cluster.launch import launch as start
    from .config.package_files import find_job

    checked = _job(job, overrides)
    return start(
        checked,
        find_job(job),
        run_dir or Path("runs") / checked.name,
        machine=machine,
        ranks=ranks,
        nodes=nodes,
        overrides=overrides or [],
        resume=resume,
        allow_changes=allow_changes,
        oversubscribe=oversubscribe,
        dry_run=dry_run,
    )


@app.command()
def machines() -> None:
    """List the machines that come with the package."""
    from .cluster.machine import list_machines

    with _output_is_all():
        print(list_machines())


@app.command()
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
    from .cluster.submit import Request, parse_numbers
    from .cluster.submit import submit as start

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
    with _output_is_all() if dry_run else contextlib.nullcontext():
        return start(lambda overrides: _job(job, overrides), request, dry_run)


@app.command()
def status(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", parser=_path, help="A run directory, or a folder of runs.")
    ] = None,
    all_runs: Annotated[bool, typer.Option("--all", help="All runs below runs/.")] = False,
) -> int:
    """Print the state of submitted runs."""
    from .cluster.status import status as how

    if (run is None) != all_runs:
        raise UserError("status: name a run directory, or say --all for all below runs/; one of them")
    with _output_is_all():
        return how(run or Path("runs"))


@app.command()
def cancel(run: RunArgument) -> int:
    """Cancel the job of a submitted run; it is not requeued."""
    from .cluster.status import cancel as end

    return end(run)


@app.command()
def logs(
    run: RunArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Follow the log until the job has ended.")] = False,
) -> int:
    """Print the log of a submitted run."""
    from .cluster.status import logs as show

    with _output_is_all():
        return show(run, follow)


@app.command()
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
    from .cluster.doctor.run import doctor as look

    if overrides and not job:
        raise UserError("doctor: --set changes a job, but none is named; name it")
    return look(machine, _job(job, overrides) if job else None, nodes, ranks, walltime)


@app.command()
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
        Path, typer.Option(metavar="PATH", parser=_path, help="Where runs and tables are kept.")
    ] = Path("compare"),
    quick: Annotated[bool, typer.Option("--quick", help="The file's smaller size.")] = False,
    overrides: Overrides = None,
) -> int:
    """Run contenders, seeds and controls, and print one table. Runs on ranks, as train does."""
    record_signals()

    def work(comm: Comm) -> int:
        from .compare.run import compare as run_all
        from .compare.spec import of_methods, read_comparison
        from .config.package_files import find_job

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

    return _run_on_ranks(work)


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run directories, comparisons, or folders of runs.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page; report.html if not given. With --figure: its file.")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Print the report; draw nothing.")] = False,
    csv: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write all numbers as CSV files, too.")
    ] = None,
    figure: Annotated[
        str | None, typer.Option(metavar="NAME", help="Draw this figure alone, into a file.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="Of that file: svg, png or pdf.")] = "svg",
) -> None:
    """Show what runs did: one HTML page of figures and tables, or text."""
    from .report.command import report as show

    with _output_is_all() if text else contextlib.nullcontext():
        show(runs, out, text=text, csv=csv, figure=figure, form=form)


@app.command()
def explain(
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="KEY", help="training.lr, selection.kakurenbo, machine.grace_s; all if not given."
        ),
    ] = None,
) -> None:
    """Explain a key of job, machine or comparison files, a method or a data set."""
    from .explain.text import explain as explained

    with _output_is_all():
        print(explained(key))


@app.command()
def methods() -> None:
    """List the selection methods: ours, and those of installed packages."""
    from .explain.text import list_classes
    from .selection import METHODS

    with _output_is_all():
        print(list_classes(METHODS))


@app.command()
def scores() -> None:
    """List the scoring methods of kakurenbo score: ours, and those of installed packages."""
    from .explain.text import list_classes
    from .selection.subsets import SCORES

    with _output_is_all():
        print(list_classes(SCORES))


@app.command()
def datasets() -> None:
    """List the data sets: ours, and those of installed packages."""
    from .data import DATASETS
    from .explain.text import list_classes

    with _output_is_all():
        print(list_classes(DATASETS))


@app.command()
def models(
    word: Annotated[str | None, typer.Argument(metavar="WORD", help="Only names that hold this.")] = None,
) -> None:
    """List the networks: ours, those of installed packages, timm's and torchvision's."""
    from .explain.text import list_models

    with _output_is_all():
        print(list_models(word))


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="job, machine or comparison.")],
) -> None:
    """Print the JSON Schema of a kind of file, for editors."""
    from .explain.schema import KINDS, schema_text

    if kind not in KINDS:
        raise UserError(f"schema: unknown kind {kind}; known: {', '.join(KINDS)}")
    with _output_is_all():
        print(schema_text(kind), end="")


@new_app.command("job")
def new_job(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A job that comes with the package, or a path.")
    ],
    out: Annotated[Path, typer.Option(metavar="PATH", parser=_path, help="Where the copy goes.")],
) -> None:
    """Copy a job file, to change it."""
    _copy("job", name, out)


@new_app.command("machine")
def new_machine(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A machine that comes with the package, or a path.")
    ],
    out: Annotated[Path, typer.Option(metavar="PATH", parser=_path, help="Where the copy goes.")],
) -> None:
    """Copy a machine file, to change it."""
    _copy("machine", name, out)


def _copy(kind: str, name: str, out: Path) -> None:
    from .explain.new import copy_file

    copy_file(kind, name, out)
    print(f"{out}: a copy of {name}")


@data_app.command()
def stage(
    job: JobArgument,
    scratch: Scratch = None,
    machine: MachineOption = "local",
    checksum: Annotated[
        bool,
        typer.Option("--checksum", help="Read what is there already, and compare it with the shared files."),
    ] = False,
    overrides: Overrides = None,
) -> int:
    """Copy each rank's share of a job's data to its node's disk. Runs on ranks, as train does."""

    def work(comm: Comm) -> int:
        from .cluster.machine import read_machine

        checked = _job_of_all_ranks(comm, job, overrides)
        there = comm.on_rank_zero(lambda: scratch or read_machine(machine).scratch)
        from .local_data.shards import stage
        from .rundir.path_checks import in_words

        folder, n_bytes = stage(checked, there, comm, checksum)
        if comm.rank == 0:
            print(f"{folder}: {in_words(n_bytes)} copied for {comm.size} rank{'s' * (comm.size > 1)}")
        return DONE

    return _run_on_ranks(work)


@make_app.command("deepcam")
def make_deepcam(
    folder: Annotated[Path, typer.Argument(metavar="DIR", parser=_path, help="Where the files go.")],
    samples: Annotated[int, typer.Option(min=1, max=1_000_000, help="Samples to train on.")] = 256,
    validation: Annotated[int, typer.Option(min=1, max=1_000_000, help="Samples to validate on.")] = 64,
    height: Annotated[int, typer.Option(min=16, max=100_000, help="Pixels; 768 in the public set.")] = 64,
    width: Annotated[int, typer.Option(min=16, max=100_000, help="Pixels; 1152 in the public set.")] = 96,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all samples.")] = 1,
) -> int:
    """Make synthetic DeepCAM samples in the public set's HDF5 layout, on all cores of this node."""
    from .data.tools.synthetic_deepcam import SyntheticSpec, make

    asked = SyntheticSpec(samples, validation, height, width, seed)
    n_made = make(folder, asked)
    print(f"{folder}: {samples} + {validation} samples of {height} x {width}, {n_made} of them made now")
    return DONE


@data_app.command()
def stats(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", parser=_path, help="The folder that holds train/ and validation/."),
    ],
    replace: Annotated[bool, typer.Option("--replace", help="Compute it even if it is there.")] = False,
) -> int:
    """Compute stats.h5, the smallest and largest value of each channel, from DeepCAM's training files."""
    from .data.hdf5.manifest import stats_path
    from .data.tools.stats import write_stats

    n = write_stats(folder, replace)
    print(f"{stats_path(folder)}: computed from {n} files")
    return DONE


@data_app.command()
def pack(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            parser=_path,
            help="A folder of images: train/CLASS/*, validation/CLASS/* or val/CLASS/*.",
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", parser=_path, help="Where the HDF5 files go.")],
    size: Annotated[
        int | None,
        typer.Option(min=1, max=100_000, help="Resize the shorter side to this, and crop the centre."),
    ] = None,
) -> int:
    """Pack an image folder into HDF5 files of about 1 GB, for data.name hdf5. Resumes where it stopped."""
    from .data.tools.pack import pack as pack_all

    done = pack_all(source, folder, size)
    print(
        f"{folder}: {done.train} + {done.validation} images of 3 x {done.height} x {done.width} in "
        f"{done.classes} classes, "
        f"{done.written} of {done.parts} parts written now"
    )
    if done.left_out:
        n, one = len(done.left_out), done.left_out[0]
        print(f"{n} files left out, not named as images or in no class: {one} for one")
    return DONE


def _run_on_ranks(work: Callable[[Comm], int]) -> int:
    """Run work on all ranks and return the exit code; a failure of one rank ends all."""
    from .distributed.world import open_comm, wait_for_abort

    comm = open_comm()
    try:
        code = work(comm)
        comm.close()
        return code
    except BaseException as problem:
        if isinstance(problem, UserError) and problem.on_all_ranks:
            if comm.rank == 0:
                _print_problem(problem)
            comm.barrier()
            return FAILED if isinstance(problem, TrainingError) else USER_ERROR
        wait_for_abort(problem)
        _print_failure(problem, comm.rank, comm.size)
        comm.abort(USER_ERROR if isinstance(problem, SampleError) else FAILED)


def main() -> None:
    """Run the command line and exit; a UserError is one line and exit code 2."""
    prepare_streams()
    # Else Pythons that we start (torchrun, DataLoader workers) import a random.py of the current folder.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    try:
        code = app(standalone_mode=False)
    except _UsageError as problem:
        command = problem.ctx.command_path if problem.ctx else "kakurenbo"
        _print_problem(UserError(f"{problem.format_message().rstrip('.')}; see {command} --help"))
        code = USER_ERROR
    except typer.Abort:
        code = FAILED
    except UserError as problem:
        _print_problem(problem)
        code = USER_ERROR
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as problem:
            _abandon(stream, problem)
    gc.freeze()  # else the interpreter would look for garbage in all modules of torch, which takes seconds
    sys.exit(code if isinstance(code, int) else 0)


@contextlib.contextmanager
def _output_is_all() -> Iterator[None]:
    """Exit with code 1 where a command that only prints cannot write to standard output."""
    try:
        yield
        sys.stdout.flush()
    except OSError as problem:
        if problem.filename is not None:
            raise
        _abandon(sys.stdout, problem)
        raise typer.Exit(FAILED) from None


def _abandon(stream: TextIO, problem: OSError) -> None:
    _print_problem(UserError(f"{stream.name}: not all of it could be written ({problem.strerror})"))
    os.dup2(
        os.open(os.devnull, os.O_WRONLY), stream.fileno()
    )  # or Python would try again, and leave with a code of its own


def _print_problem(problem: UserError) -> None:
    print_error(f"kakurenbo: {problem}")


def _print_failure(problem: BaseException, rank: int, size: int) -> None:
    """Print what ended this rank; the line that names the rank comes last."""
    if not isinstance(problem, SystemExit | KeyboardInterrupt | UserError):
        print_error("".join(traceback.format_exception(problem)).rstrip())
    reason = " ".join(str(problem).split()) or "no reason given"
    node = os.uname().nodename
    print_error(f"kakurenbo: rank {rank} of {size} on {node}: {type(problem).__name__}: {reason}")


if __name__ == "__main__":
    main()
