"""Charts of accuracy: over seconds, steps, passes and epochs; speed-up over tolerance; Pareto front."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..compare.metrics import Curve, mean_curve, pareto_shares, speed_up
from .chart import Chart, Series, accuracy_by_steps, colors_of, mean_series
from .records import Group, Records, Run
from .summary import curve_of

AXES = {
    "seconds": "seconds",
    "steps": "optimizer steps",
    "passes": "samples forward + 2 x backward",
    "epoch": "epoch",
}


def over(y: str, x: str) -> Callable[[Records], list[Chart]]:
    """Return the figure of accuracy or error over seconds, steps, passes or epochs."""

    def figure(records: Records) -> list[Chart]:
        known = [g for g in records.groups if np.isfinite(g.first.accuracy()).any()]
        colors = colors_of(records)
        series = [mean_series(group, colors[group.name], x, y) for group in known]
        series = [s for s in series if len(s.x)]
        if not series:
            return []
        what = y if y == "error" else known[0].first.measure
        ends = "; ".join(map(_end, _first_best_worst(series)))
        band = (
            " Bands: 16th to 84th percentile of the seeds." if any(s.low is not None for s in series) else ""
        )
        sentence = f"Validation {what} at the end, and the {AXES[x]} it took: {ends}.{band}"
        title = f"{what[0].upper()}{what[1:]} over {x}"
        return [Chart(f"{y}_over_{x}", title, sentence, AXES[x], what, series, is_share=True)]

    return figure


def _end(series: Series) -> str:
    x = float(series.x[-1])
    return f"{series.name} {series.y[-1]:.2%} after {x:{',.0f' if x >= 100 else '.3g'}}"


def _first_best_worst(series: list[Series]) -> list[Series]:
    """Return all of up to four, else the first, the highest and the lowest: a sentence names no more."""
    if len(series) <= 4:
        return series
    by_end = sorted(series, key=lambda s: float(np.nan_to_num(s.y[-1])))
    return list({s.name: s for s in (series[0], by_end[-1], by_end[0])}.values())


def convergence(records: Records) -> list[Chart]:
    """Return accuracy over epochs and over seconds."""
    return over("accuracy", "epoch")(records) + over("accuracy", "seconds")(records)


def speedup_over_tolerance(records: Records) -> list[Chart]:
    """Return t_b / t_n over the tolerance, of every group against the baseline."""
    whole = {g.name: c for g in records.groups if (c := _mean_curve(g)) is not None}
    by_steps = {g.name: c for g in records.groups if (c := _curve_by_steps(g)) is not None}
    curves, base = by_steps if by_steps.keys() == whole.keys() else whole, records.baseline
    if base is None or base.name not in curves or len(curves) < 2:
        return []
    tolerances = np.linspace(0, 0.02, 41)
    colors = colors_of(records)
    series = [
        Series(
            name,
            tolerances,
            np.array([_or_nan(speed_up(c, curves[base.name], t)) for t in tolerances]),
            color=colors[name],
        )
        for name, c in curves.items()
        if name != base.name
    ]
    said = f"How many times fewer steps than {base.name} reach its best accuracy less a tolerance"
    if curves is not by_steps:
        said += " at the end of an epoch (not every run was evaluated within epochs: record.evaluate_every)"
    return [
        Chart(
            "speedup_over_tolerance",
            "Speed-up over tolerance",
            f"{said}.",
            "tolerance",
            "t_b / t_n",
            series,
        )
    ]


def pareto(records: Records) -> list[Chart]:
    """Return each group's share of the front of error against seconds."""
    curves = {g.name: [c] for g in records.groups if (c := _mean_curve(g)) is not None}
    if len(curves) < 2:
        return []
    shares = pareto_shares(curves)
    said = (
        "Share of the front of error against seconds: "
        + "; ".join(f"{n} {s:.0%}" for n, s in shares.items())
        + "."
    )
    return [
        Chart(
            "pareto",
            "Pareto front",
            said,
            "",
            "share of the front",
            [Series("share", list(shares), np.array(list(shares.values())))],
            "bars",
            is_share=True,
        )
    ]


def _mean_curve(group: Group) -> Curve | None:
    runs = _validated(group)
    return mean_curve([curve_of(run) for run in runs]) if runs else None


def _curve_by_steps(group: Group) -> Curve | None:
    """Return the mean curve at every evaluation; None if there was none within epochs."""
    found = accuracy_by_steps(_validated(group))
    if found is None:
        return None
    steps, accuracies = found
    unknown = np.full(len(steps), np.nan)
    return Curve(accuracies.mean(axis=0), steps, unknown, unknown, unknown)


def _validated(group: Group) -> list[Run]:
    return [run for run in group.runs if run.is_done and np.isfinite(run.accuracy()).all()]


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value
