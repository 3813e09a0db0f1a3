"""Comparison table: figures of every contender, and their Markdown form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RunDirectoryError
from .metrics import (
    ERROR_FACTORS,
    TOLERANCES,
    Curve,
    accuracy_at,
    best,
    cost_to_error,
    differs,
    final,
    mean_curve,
    pareto_shares,
    speed_up,
)

Lines = list[dict]  # a run's metrics, one line an epoch


def run_lines(run: Path, epochs: int) -> Lines:
    """Return a run's metrics. Raises RunDirectoryError unless they are of so many epochs; 0 is any."""
    path = run / "metrics.jsonl"
    try:
        lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        lines = []
    if len(lines) != (epochs or max(len(lines), 1)):
        raise RunDirectoryError(
            f"{path}: has no line of each of the run's {epochs} epochs; remove {run}, and it is run again"
        )
    return lines


def curve(lines: Lines) -> Curve:
    """Return a run's metrics, cumulative over epochs; accuracy is validation accuracy, or mean IoU."""
    measure = "val_accuracy" if "val_accuracy" in lines[0] else "val_iou"

    def summed(values: list) -> np.ndarray:
        return np.cumsum(np.array(values, np.float64))

    return Curve(
        accuracy=np.array([line[measure] if line[measure] is not None else 0.0 for line in lines]),
        steps=summed([line["steps"] for line in lines]),
        forward=summed([line["n_forward"] for line in lines]),
        backward=summed([line["n_backward"] for line in lines]),
        seconds=summed([line["seconds"]["total"] for line in lines]),
    )


def table(
    curves: Mapping[str, Sequence[Curve]], lines: Mapping[str, Sequence[Lines]], against: Mapping[str, str]
) -> dict[str, dict]:
    """Return every figure of every line, by name. against: the line that each is measured against."""
    means = {name: mean_curve(runs) for name, runs in curves.items()}
    shares = pareto_shares(curves)
    budget = min(mean.forward[-1] for mean in means.values())
    rows = {}
    for name, runs in curves.items():
        mean = means[name]
        row: dict[str, Any] = {
            "final": asdict(final(runs)),
            "best": asdict(best(runs)),
            "n_forward": mean.forward[-1],
            "n_backward": mean.backward[-1],
            "steps": mean.steps[-1],
            "seconds": mean.seconds[-1],
            "seconds_by_part": _seconds_by_part(lines[name]),
            "hidden_fraction": float(
                np.mean([[line["hidden_fraction"] for line in run] for run in lines[name]])
            ),
            "accuracy_at_equal_forward": accuracy_at(mean, budget),
            "pareto_share": shares[name],
        }
        if against[name] in means:
            baseline = means[against[name]]
            gap, error, beyond = differs(runs, curves[against[name]])
            row |= {"against": against[name], "gap": gap, "standard_error": error, "beyond_noise": beyond}
            row["speed_up"] = {
                str(tolerance): speed_up(mean, baseline, tolerance) for tolerance in TOLERANCES
            }
            for cost in ("steps", "seconds"):
                errors = {str(factor): factor * (1 - baseline.accuracy[-1]) for factor in ERROR_FACTORS}
                row[f"{cost}_to_error"] = {
                    factor: cost_to_error(mean, error, cost) for factor, error in errors.items()
                }
        rows[name] = row
    return rows


def _seconds_by_part(runs: Sequence[Lines]) -> dict[str, float]:
    return {
        part: float(np.mean([sum(line["seconds"][part] for line in run) for run in runs]))
        for part in runs[0][0]["seconds"]
    }


def markdown(rows: Mapping[str, dict]) -> str:
    """Return the table that is printed.

    gap: to the baseline of the line, with its standard error; a ``*`` marks what is significant.
    """

    def of(row: dict, name: str, key: float, form: str) -> str:
        value = row.get(name, {}).get(str(key))
        return "-" if value is None else format(value, form)

    heads = [
        "",
        "final",
        "std",
        "p16 to p84",
        "best",
        "gap",
        "hidden",
        "forward",
        "backward",
        "s",
        "plan",
        "train",
        "refresh",
    ]
    heads += [f"t_b/t_n {tolerance:g}" for tolerance in TOLERANCES] + [
        f"steps to {factor:g} e" for factor in ERROR_FACTORS
    ]
    heads += [f"s to {factor:g} e" for factor in ERROR_FACTORS] + ["at equal forward", "front"]
    cells = [heads]
    for name, row in rows.items():
        last, equal = row["final"], row["accuracy_at_equal_forward"]
        cells.append([
            name, f"{last['mean']:.4f}", f"{last['std']:.4f}", f"{last['p16']:.4f} to {last['p84']:.4f}",
            f"{row['best']['mean']:.4f}", gap_in_words(name, row), f"{row['hidden_fraction']:.3f}",
            f"{row['n_forward']:.0f}", f"{row['n_backward']:.0f}", f"{row['seconds']:.1f}",
            *(f"{row['seconds_by_part'][part]:.2f}" for part in ("plan", "train", "refresh")),
            *(of(row, "speed_up", tolerance, ".2f") for tolerance in TOLERANCES),
            *(of(row, "steps_to_error", factor, ".0f") for factor in ERROR_FACTORS),
            *(of(row, "seconds_to_error", factor, ".1f") for factor in ERROR_FACTORS),
            "-" if equal is None else f"{equal:.4f}", f"{row['pareto_share']:.2f}",
        ])  # fmt: skip
    return aligned(cells)


def gap_in_words(name: str, row: dict) -> str:
    """Return the gap of a line to its baseline, ``+0.0039 ± 0.0034``, with a ``*`` if it is significant."""
    if row.get("against", name) == name:
        return "-"
    error = f" ± {row['standard_error']:.4f}" if np.isfinite(row["standard_error"]) else ""
    return f"{row['gap']:+.4f}{error}" + " *" * row["beyond_noise"]


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Return rows of cells, the first of them the heads, as a table in Markdown that reads well as it is."""
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in cells
    ]
    return (
        "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]) + "\n"
    )
