"""Commands that show what runs did: report."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from .output import output_is_all


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
    from ..report.command import report as show

    with output_is_all() if text else contextlib.nullcontext():
        show(runs, out, text=text, csv=csv, figure=figure, form=form)
