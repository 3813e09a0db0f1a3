"""Terminal form of a report: verdict, one table, and what is missing."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from .records import Records
from .summary import in_words, summarize, verdicts

HEADS = ("", "accuracy", "seconds", "forward", "backward", "hidden", "state")


def summary_rows(records: Records) -> list[tuple[str, ...]]:
    """Return the table of all groups, a row each, under `HEADS`."""
    rows: list[tuple[str, ...]] = []
    for group in records.groups:
        own = summarize(group)
        state = group.first.state if len(group.runs) == 1 else f"{own.n_done} of {len(group.runs)} runs done"
        rows.append(
            (
                group.name,
                in_words(own.accuracy, own.n_runs),
                f"{own.seconds:,.1f}",
                f"{own.forward:,.0f}",
                f"{own.backward:,.0f}",
                f"{own.hidden:.1%}",
                state,
            )
        )
    return rows


def text_report(records: Records) -> str:
    """Return the report for a terminal."""
    parts = ["\n".join(verdicts(records)), _aligned([HEADS, *summary_rows(records)])]
    if lacking := problems(records):
        parts.append("\n".join(lacking))
    return "\n\n".join(parts)


def problems(records: Records) -> list[str]:
    """Return what runs lack, a line each."""
    return [f"{run.name}: {problem}" for run in records.runs for problem in run.problems] + records.notes


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell + " " * (width - _width(cell))
            if i in (0, len(row) - 1)
            else " " * (width - _width(cell)) + cell
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _width(text: str) -> int:
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") - bool(unicodedata.combining(c)) for c in text)
