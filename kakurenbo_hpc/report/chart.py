"""Chart: what a figure shows, as plain numbers; drawing, tables, JSON and CSV are made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .records import Group, Records, Run

MOST_RUNS = 10  # that have figures of their own
MOST_ROWS = 25  # of a table on the page; CSV and JSON hold all


@dataclass(frozen=True)
class Series:
    """One line, band, bar or ridge.

    Attributes:
        name: in the legend.
        x: positions; of bars their labels.
        y: values; NaN where there is none.
        low: lower edge of the band around y, if it has one.
        high: upper edge.
        color: number in the palette; 0 is the baseline's.
        dashed: whether the line is.
        mark: a position on x to mark, of ridges.
    """

    name: str
    x: Sequence | np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    color: int = 1
    dashed: bool = False
    mark: float | None = None


@dataclass(frozen=True)
class Chart:
    """One figure.

    Attributes:
        name: as in ``--figure NAME``.
        title: a few words.
        sentence: what it says, for those who do not see it.
        x: label of the horizontal axis.
        y: label of the vertical axis.
        series: what is drawn.
        kind: lines, stack, bars, ridge, heat (a matrix) or sheet (thumbnails).
        is_share: whether y is between 0 and 1, and shown in percent.
        log_x: whether x is logarithmic.
        table: head and rows behind the figure, if the series make no good ones.
        image: of a heat map (rows, columns); of a sheet (H, W, 3) uint8.
        ticks: labels of the image's rows, from the top.
        columns: first and last label of a heat map's columns.
    """

    name: str
    title: str
    sentence: str
    x: str
    y: str
    series: list[Series]
    kind: str = "lines"
    is_share: bool = False
    log_x: bool = False
    table: tuple[list[str], list[list]] | None = field(default=None)
    image: np.ndarray | None = None
    ticks: Sequence[str] = ()
    columns: tuple[float, float] = (0, 1)

    def rows(self) -> tuple[list[str], list[list]]:
        """Return head and rows of the table behind the figure, with all that is drawn."""
        if self.table is not None:
            return self.table
        if self.kind == "bars":
            labels = list(self.series[0].x)
            return ["", *labels], [[s.name, *map(float, s.y)] for s in self.series]
        if all(list(s.x) == list(self.series[0].x) for s in self.series):
            head = [self.x, *(s.name for s in self.series)]
            return head, [
                list(map(float, row))
                for row in zip(self.series[0].x, *(s.y for s in self.series), strict=True)
            ]
        rows = [[s.name, float(x), float(y)] for s in self.series for x, y in zip(s.x, s.y, strict=True)]
        return ["", self.x, self.y], rows


def mean_series(group: Group, color: int, x: str, y: str) -> Series:
    """Return the mean of a group's runs, with the band from their 16th to their 84th percentile.

    Args:
        group: runs; those of fewer epochs count as far as they came, for all if none came to the end.
        color: in the palette.
        x: ``seconds``, ``steps``, ``passes`` or ``epoch``.
        y: ``accuracy`` or ``error``.
    """
    runs = [run for run in group.runs if run.is_done] or [run for run in group.runs if run.lines]
    if x == "steps" and (found := accuracy_by_steps(runs)) is not None:
        return _with_band(group.name, *found, color, y)
    length = min((len(run.lines) for run in runs), default=0)
    axis = {
        "seconds": lambda run: run.total("seconds", "total"),
        "steps": lambda run: run.total("steps"),
        "passes": lambda run: run.passes(),
        "epoch": lambda run: run.column("epoch"),
    }[x]
    if not length:
        return Series(group.name, np.zeros(0), np.zeros(0), color=color)
    xs = np.mean([axis(run)[:length] for run in runs], axis=0)
    return _with_band(group.name, xs, np.array([run.accuracy()[:length] for run in runs]), color, y)


def _with_band(name: str, x: np.ndarray, values: np.ndarray, color: int, y: str) -> Series:
    """Return the mean of accuracies, (runs, points), and their band if there are several runs."""
    values = 1 - values if y == "error" else values
    low, high = np.percentile(values, [16, 84], axis=0) if len(values) > 1 else (None, None)
    return Series(name, x, values.mean(axis=0), low, high, color, dashed=color == 0)


def accuracy_by_steps(runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the steps at which any run was evaluated, (k,), and each run's accuracies there, (runs, k).

    Between two evaluations of a run lies a straight line. None unless all were evaluated within epochs.
    """
    found = [run.accuracy_by_steps() for run in runs]
    known = [curve for curve in found if curve is not None]
    if not known or len(known) < len(found):
        return None
    first, last = max(steps[0] for steps, _ in known), min(steps[-1] for steps, _ in known)
    steps = np.unique(np.concatenate([steps for steps, _ in known]))
    steps = steps[(first <= steps) & (steps <= last)]
    return steps, np.array([np.interp(steps, *curve) for curve in known])


def thinned(rows: list[list], most: int = MOST_ROWS) -> list[list]:
    """Return at most so many rows, evenly chosen, the first and the last among them."""
    if len(rows) <= most:
        return rows
    return [rows[i] for i in np.linspace(0, len(rows) - 1, most).round().astype(int)]


def per_run(
    records: Records, name: str, draw: Callable[[Group, str], Chart | None], only_hiding: bool = False
) -> list[Chart]:
    """Return a chart of each group, of the first few, whose names tell them apart.

    Args:
        records: of all groups.
        name: of the figure.
        draw: returns the chart of a group under a name; None where it does not hold what the chart needs.
        only_hiding: leave out groups that hide no samples.
    """
    groups = records.hiding if only_hiding else [g for g in records.groups if g.first.lines]
    charts = [draw(g, name if i == 0 else f"{name}_{i + 1}") for i, g in enumerate(groups[:MOST_RUNS])]
    return [chart for chart in charts if chart is not None]


def colors_of(records: Records) -> dict[str, int]:
    """Return each group's number in the palette; the baseline's is 0."""
    base = records.baseline
    others = [g.name for g in records.groups if g is not base]
    return {**({base.name: 0} if base else {}), **{name: i for i, name in enumerate(others, 1)}}
