"""Rows of text for people."""

from __future__ import annotations


def table(rows: list[tuple[str, ...]]) -> str:
    """Return rows of text with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
    )
