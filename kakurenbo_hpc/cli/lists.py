"""Commands that list and explain: methods, datasets, models, explain, schema, new."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError
from .arguments import expand
from .output import output_is_all

new_app = typer.Typer(help="Copy a job or a machine file that comes with the package.", no_args_is_help=True)


def methods() -> None:
    """List the selection methods: ours, and those of installed packages."""
    from ..explain.text import list_classes
    from ..selection import METHODS

    with output_is_all():
        print(list_classes(METHODS))


def scores() -> None:
    """List the scoring methods of kakurenbo score: ours, and those of installed packages."""
    from ..explain.text import list_classes
    from ..selection.subsets import SCORES

    with output_is_all():
        print(list_classes(SCORES))


def datasets() -> None:
    """List the data sets: ours, and those of installed packages."""
    from ..data import DATASETS
    from ..explain.text import list_classes

    with output_is_all():
        print(list_classes(DATASETS))


def models(
    word: Annotated[str | None, typer.Argument(metavar="WORD", help="Only names that hold this.")] = None,
) -> None:
    """List the networks: ours, those of installed packages, timm's and torchvision's."""
    from ..explain.text import list_models

    with output_is_all():
        print(list_models(word))


def explain(
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="KEY", help="training.lr, selection.kakurenbo, machine.grace_s; all if not given."
        ),
    ] = None,
) -> None:
    """Explain a key of job, machine or comparison files, a method or a data set."""
    from ..explain.text import explain as explained

    with output_is_all():
        print(explained(key))


def schema(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="job, machine or comparison.")],
) -> None:
    """Print the JSON Schema of a kind of file, for editors."""
    from ..explain.schema import KINDS, schema_text

    if kind not in KINDS:
        raise UserError(f"schema: unknown kind {kind}; known: {', '.join(KINDS)}")
    with output_is_all():
        print(schema_text(kind), end="")


@new_app.command("job")
def new_job(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A job that comes with the package, or a path.")
    ],
    out: Annotated[Path, typer.Option(metavar="PATH", parser=expand, help="Where the copy goes.")],
) -> None:
    """Copy a job file, to change it."""
    _copy("job", name, out)


@new_app.command("machine")
def new_machine(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A machine that comes with the package, or a path.")
    ],
    out: Annotated[Path, typer.Option(metavar="PATH", parser=expand, help="Where the copy goes.")],
) -> None:
    """Copy a machine file, to change it."""
    _copy("machine", name, out)


def _copy(kind: str, name: str, out: Path) -> None:
    from ..explain.new import copy_file

    copy_file(kind, name, out)
    print(f"{out}: a copy of {name}")
