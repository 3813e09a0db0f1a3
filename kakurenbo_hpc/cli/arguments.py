"""Arguments and options that several commands have, and the job that they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError

if TYPE_CHECKING:
    from ..compare.spec import Comparison
    from ..config.job import Job


def expand(text: str | Path) -> Path:
    """Return a path with ~ and variables expanded: no shell does it in --run-dir=~/x."""
    from ..config.options import expand_path

    try:
        return Path(expand_path(str(text)))
    except ValueError as problem:
        raise UserError(f"{text}: {problem}") from None


JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="A job file, or the name of one that comes with the package.")
]
RunDir = Annotated[
    Path | None,
    typer.Option(metavar="PATH", parser=expand, help="Where the run is kept; runs/NAME if not given."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the job: --set training.epochs=5."),
]
MachineOption = Annotated[
    str, typer.Option(help="A machine file, or the name of one that comes with the package.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", parser=expand, help="The run directory.")]
Scratch = Annotated[
    str | None,
    typer.Option(help="A folder on each node's own disk, for data.placement local; $TMPDIR may stand in it."),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Resume from the newest checkpoint in the run directory.")
]
Scaling = Annotated[
    str | None, typer.Option(help="Of a sweep, what is kept: strong, the global batch; weak, a rank's.")
]
ScoreMethod = Annotated[
    str, typer.Argument(metavar="METHOD", help="el2n, craig ... (kakurenbo scores has all).")
]
ScoreFile = Annotated[Path, typer.Option(metavar="PATH", parser=expand, help="The score file to write.")]
ScoreEpochs = Annotated[
    int | None,
    typer.Option(min=0, help="Epochs of training before samples are scored; the paper's if not given."),
]
ScoreRepeats = Annotated[
    int | None, typer.Option(min=1, help="Initialisations to average over; the paper's if not given.")
]
HoldOut = Annotated[
    str | None,
    typer.Option(metavar="hash:SHARE", help="irreducible: the share to train on, which gets no scores."),
]
ScoreOptions = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="An option of the method, such as fraction=0.7."),
]
LastLayer = Annotated[
    bool,
    typer.Option("--last-layer", help="grand: the gradient of the last layer alone, for large networks."),
]
ComparisonFile = Annotated[
    str, typer.Argument(metavar="FILE", help="A comparison file, or a job with --methods.")
]
Methods = Annotated[str | None, typer.Option(help="Methods to compare on a job, separated by commas.")]
Seeds = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Seeds 1 to this; the file's own if not given, or 3.")
]
CompareOut = Annotated[
    Path, typer.Option(metavar="PATH", parser=expand, help="Where runs and tables are kept.")
]
Quick = Annotated[bool, typer.Option("--quick", help="The file's smaller size.")]
Restarts = Annotated[
    int,
    typer.Option(
        min=0,
        max=1000,
        help="Start the ranks again after a crash or the loss of a node, from the newest checkpoint, at most "
        "so often without a finished epoch between.",
    ),
]
AllowChanges = Annotated[
    bool, typer.Option("--allow-changes", help="With --resume: accept a job that differs from the run's.")
]


def load_comparison(
    file: str, methods: str | None, quick: bool, seeds: int | None, overrides: list[str] | None
) -> tuple[Comparison, dict[str, dict]]:
    """Return the comparison of a file, or of methods on a job, and the values of each job that it names."""
    from ..compare.spec import compare_methods, read_comparison
    from ..config.package_files import find_job

    if methods is None:
        return read_comparison(find_job(file), quick, seeds, overrides or [])
    if quick:
        raise UserError(
            "compare: --quick and --methods are both given, but only a comparison file has a smaller size; "
            "choose one"
        )
    return compare_methods(file, methods.split(","), seeds or 3, overrides or [])


def set_words(overrides: list[str] | None) -> list[str]:
    """Return overrides as words of a command line."""
    return [word for override in overrides or [] for word in ("--set", override)]


def read_job(path: str, overrides: list[str] | None) -> Job:
    """Return a job by its path or name, as overrides change it."""
    from ..config.job import read_job as read
    from ..config.package_files import find_job
    from ..data import DATASETS
    from ..selection import METHODS

    return read(find_job(path), overrides or [], DATASETS, METHODS)
