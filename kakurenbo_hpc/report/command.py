"""The command ``kakurenbo report``: text, a page, CSV files or one figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from .records import Choices, Records, printable, read_records

FORMATS = ("svg", "png", "pdf")


def report(
    paths: Sequence[Path],
    out: Path | None,
    *,
    text: bool = False,
    csv: Path | None = None,
    figure: str | None = None,
    form: str = "svg",
    choices: Choices | None = None,
) -> None:
    """Report on runs, and print what was written.

    Args:
        paths: run directories, comparisons, folders of them.
        out: the page, or the figure's file.
        text: print, and import no matplotlib.
        csv: folder for all numbers.
        figure: draw this one alone.
        form: svg, png or pdf.
        choices: of figures of samples.

    Raises:
        UserError: no run is there, or what is asked for is not known or cannot be written.
    """
    if form not in FORMATS:
        raise UserError(f"report: --format is {form}; known: {', '.join(FORMATS)}")
    choices = choices or Choices()
    if choices.by not in ("loss", "weight") or choices.extreme not in ("", "highest", "lowest"):
        raise UserError(
            f"report: --by is {choices.by} and --extreme {choices.extreme or 'not given'}; "
            "known: loss and weight, highest and lowest"
        )
    if text and figure:
        raise UserError("report: --text and --figure are both given; choose one")
    records = read_records(paths, histograms=not text or csv is not None)
    records.choices = choices
    if text:
        from .text import text_report

        print(text_report(records))
    try:
        written = _write(records, out, text, csv, figure, form)
    except OSError as problem:
        raise UserError(
            f"report: {printable(str(problem.filename or out))} cannot be written ({problem.strerror}); "
            "give another --out"
        ) from None
    for path in written:
        print(path)


def draw_pictures(folder: Path, names: Sequence[str]) -> None:
    """Draw figures of a comparison beside its table, and print their files, or why there is none."""
    if not (folder / "comparison.json").exists():
        return
    from .page import figure

    records = read_records([folder])
    for name in names:
        try:
            for path in figure(records, name, "svg", folder / name):
                print(path)
        except (UserError, OSError) as problem:
            print(f"{problem}; no picture of {name}")


def _write(
    records: Records, out: Path | None, text: bool, csv: Path | None, figure: str | None, form: str
) -> list[Path]:
    written: list[Path] = []
    if csv is not None:
        from .page import write_csv

        written += write_csv(records, csv)
    if figure is not None:
        from .page import figure as draw_alone

        written += draw_alone(records, figure, form, out)
    elif not text:
        from .page import write_page

        out = out or Path("report.html")
        out.parent.mkdir(parents=True, exist_ok=True)
        write_page(records, out)
        written.append(out)
    return written
