"""Arguments and options that several commands have, and the job that they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError

if TYPE_CHECKING:
    from ..config.job import Job


def expand(text: str | Path) -> Path:
    """Return a path with ~ and variables expanded: no shell does it in --run-dir=~/x."""
    from ..config.options import expand_path

    try:
        return Path(expand_path(str(text)))
    except ValueError as problem:
        raise UserError(f"{str(text) or repr(text)}: {problem}") from None


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
Nodes = Annotated[
    int | None, typer.Option(min=1, max=1_000_000, help="Inside a batch job: the nodes to start ranks on.")
]
Oversubscribe = Annotated[
    bool, typer.Option("--oversubscribe", help="Start even more than eight ranks a core.")
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
ComparisonFile = Annotated[
    str, typer.Argument(metavar="FILE", help="A comparison file, or a job with --methods.")
]
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
