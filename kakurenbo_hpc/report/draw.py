"""Chart drawing with matplotlib: image files, and SVG with real text and the colours of the page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .chart import Chart
from .records import printable

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import (
        FuncFormatter,
        LogLocator,
        MaxNLocator,
        NullFormatter,
        NullLocator,
        PercentFormatter,
    )
except ImportError:
    raise UserError(
        "report: figures need matplotlib, not found here; pip install 'kakurenbo_hpc[report]', or say --text"
    ) from None

INK, FAINT, PAPER = "#1b1e23", "#d5d9df", "#ffffff"
# Okabe and Ito's colours, told apart by the colour-blind, after the baseline's grey; the page has its own.
PALETTE = ["#6b7280", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31"]
_MARKERS = "os^Dvp"
_MOST_BLOCKS = 60  # of a stack; more epochs are drawn by their means
_SIZE = (4.9, 3.2)  # inches: the type is still read on a phone
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.3,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.3,
    "lines.linewidth": 1.7,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "path.simplify_threshold": 0.5,
}
_LEGEND_ROWS = 3  # that fit into the height of a figure


def save(chart: Chart, path: Path, form: str) -> None:
    """Write a chart as a file: svg, png or pdf."""
    figure = _figure(chart)
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": chart.name}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of letters that the font lacks
        figure.savefig(path, format=form, dpi=200, metadata={"Date": None} if form == "svg" else None)


def svg(chart: Chart) -> str:
    """Return a chart as an SVG element for a page: ids of its own, colours as the page's variables."""
    figure, kept = _figure(chart), io.StringIO()
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": chart.name}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(kept, format="svg", transparent=True, metadata={"Date": None})
    text = kept.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{chart.name}-", text)
    text = re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>',
        r'<svg xmlns="http://www.w3.org/2000/svg" '
        r'xmlns:xlink="http://www.w3.org/1999/xlink" \1 aria-hidden="true" focusable="false">',
        text,
        count=1,
    )
    text = text.replace(" font-family: 'DejaVu Sans', sans-serif;", "")
    for color, variable in {
        INK: "ink",
        FAINT: "faint",
        **{c: f"c{i}" for i, c in enumerate(PALETTE)},
    }.items():
        text = re.sub(rf"(fill|stroke): {color}", rf"\1: var(--{variable})", text)
    return _smaller(text)


def _smaller(text: str) -> str:
    """Return an SVG without what nobody sees: decimals, turns by nothing, repeated commands, unused ids."""
    text = re.sub(r"\s*\n\s*", " ", text).replace("> <", "><")
    text = re.sub(r"<!--.*?-->", "", text)
    return re.sub(r"<[^<>]+>", lambda tag: _smaller_tag(tag.group(0)), text)  # what is written stays


def _smaller_tag(tag: str) -> str:
    tag = re.sub(r" transform=\"rotate\(-0 [^)]*\)\"", "", tag)
    tag = re.sub(r"(?<=\d)\.(\d)\d+(?=[ \"),])", r".\1", tag).replace(".0 ", " ").replace('.0"', '"')
    tag = re.sub(r"(?<=\d) L (?=-?\d)", " ", tag)  # further points of a path are lines without saying so
    tag = tag.replace(": ", ":").replace("; ", ";")
    return re.sub(r'<g id="[^"]*-([A-Za-z0-9]+)_\d+">', r'<g class="\1">', tag)


def _figure(chart: Chart) -> Figure:
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        tall = 0.19 * max(len(chart.series) - 8, 0) if chart.kind == "ridge" else 0.0
        figure = Figure(figsize=(_SIZE[0], _SIZE[1] + tall), layout="constrained")
        axes = figure.add_subplot()
        _DRAW[chart.kind](axes, chart)
        axes.set_xlabel(chart.x)
        axes.set_ylabel(chart.y)
        if chart.log_x:
            _log_axis(axes, chart)
        elif chart.kind not in ("bars", "sheet"):
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=chart.x == "epoch"))
            axes.xaxis.set_major_formatter(FuncFormatter(_short))
        if chart.is_share:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        elif chart.kind in ("lines", "stack", "bars"):
            axes.yaxis.set_major_formatter(FuncFormatter(_short))
        _legend(figure, axes)
        figure.draw_without_rendering()
    return figure


def _lines(axes: Axes, chart: Chart) -> None:
    for series in chart.series:
        color = color_of(series.color)
        few = len(series.x) <= 25 and not chart.log_x
        axes.plot(
            series.x,
            series.y,
            color=color,
            label=_label(series.name),
            ls=(0, (4, 2)) if series.dashed else "-",
            marker=_MARKERS[series.color % len(_MARKERS)] if few or len(series.x) == 1 else None,
            ms=3.2,
        )
        if series.low is not None and series.high is not None:
            axes.fill_between(series.x, series.low, series.high, color=color, alpha=0.2, lw=0)
    if chart.kind == "lines" and chart.is_share and "accuracy" in chart.y:
        _leave_out_first_epochs(axes, chart)


def _leave_out_first_epochs(axes: Axes, chart: Chart) -> None:
    """Begin the axis at the lower tenth of the values: first epochs are far below what matters."""
    values = np.concatenate([s.y for s in chart.series])
    values = values[np.isfinite(values)]
    if len(values) > 5:
        low, high = np.quantile(values, 0.1), values.max()
        axes.set_ylim(max(low - 0.25 * (high - low), values.min() - 0.01), high + 0.08 * (high - low) + 1e-3)


def _stack(axes: Axes, chart: Chart) -> None:
    n = len(chart.series[0].x)
    edges, bottom = np.unique(np.linspace(0, n, _MOST_BLOCKS + 1).round().astype(int)), np.zeros(n)
    for i, series in enumerate(chart.series):
        color, label, top = color_of(series.color), _label(series.name), bottom + series.y
        if n <= _MOST_BLOCKS:
            axes.bar(series.x, series.y, 0.82, bottom, color=color, label=label, lw=0)
        else:  # each from the axis up, behind those below: half as many points
            blocks = np.add.reduceat(top, edges[:-1]) / np.diff(edges)
            at = series.x[0] + edges - 0.5
            axes.stairs(blocks, at, fill=True, color=color, label=label, lw=0, zorder=2 - i / 100)
        bottom = top
    axes.grid(axis="x", visible=False)
    axes.margins(x=0.01)


def _bars(axes: Axes, chart: Chart) -> None:
    labels = list(chart.series[0].x)
    is_wide = sum(min(len(label), 24) for label in labels) > 40
    at, start = np.arange(len(labels)), np.zeros(len(labels))
    for series in chart.series:
        if is_wide:
            axes.barh(at, series.y, 0.7, start, color=color_of(series.color), label=_label(series.name), lw=0)
        else:
            axes.bar(at, series.y, 0.7, start, color=color_of(series.color), label=_label(series.name), lw=0)
        start = start + np.nan_to_num(series.y)
    some = at if len(at) <= 12 or (is_wide and len(at) <= 20) else at[:: -(-len(at) // 12)]
    ticks, names = [int(i) for i in some], [printable(labels[i], 24) for i in some]
    if is_wide:
        axes.set_yticks(ticks, names)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
    else:
        axes.set_xticks(ticks, names)
        axes.grid(axis="x", visible=False)


def _ridge(axes: Axes, chart: Chart) -> None:
    color = color_of(1)
    for i, series in enumerate(chart.series):
        base = len(chart.series) - 1 - i
        height = 1.7 * series.y / np.max(series.y)
        x, y = np.asarray(series.x), base + height
        outline = np.concatenate([[x[0]], x, [x[-1]]]), np.concatenate([[base], y, [base]])
        axes.fill(*outline, color=color, alpha=0.5, lw=0.8, zorder=2 * i + 2)
        if series.mark is not None:
            axes.plot(
                [series.mark] * 2,
                [base, base + 0.95],
                color=color_of(2),
                lw=2,
                zorder=100,
                label=None
                if any(s.mark is not None for s in chart.series[:i])
                else "threshold of the next plan",
            )
    axes.set_yticks(
        [len(chart.series) - 1 - i for i in range(len(chart.series))], [s.name for s in chart.series]
    )
    axes.grid(axis="y", visible=False)
    axes.set_ylim(-0.15, None)


def _heat(axes: Axes, chart: Chart) -> None:
    assert chart.image is not None
    rows = len(chart.image)
    extent = (chart.columns[0] - 0.5, chart.columns[1] + 0.5, rows - 0.5, -0.5)
    drawn = axes.imshow(chart.image, aspect="auto", interpolation="none", cmap="cividis", extent=extent)
    assert axes.figure is not None
    axes.figure.colorbar(drawn, ax=axes, format=FuncFormatter(_short))
    shown = range(0, rows, -(-rows // 8))
    axes.set_yticks(list(shown), [chart.ticks[i] for i in shown])
    axes.grid(visible=False)


def _sheet(axes: Axes, chart: Chart) -> None:
    assert chart.image is not None
    axes.imshow(chart.image, interpolation="none")
    height = len(chart.image) / len(chart.ticks)
    axes.set_yticks([height * (i + 0.5) for i in range(len(chart.ticks))], list(chart.ticks))
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.grid(visible=False)


_DRAW: dict[str, Callable[[Axes, Chart], None]] = {
    "lines": _lines,
    "stack": _stack,
    "bars": _bars,
    "ridge": _ridge,
    "heat": _heat,
    "sheet": _sheet,
}


def _log_axis(axes: Axes, chart: Chart) -> None:
    axes.set_xscale("log")
    if chart.x == "ranks":
        axes.set_xticks(list(chart.series[0].x), [f"{x:g}" for x in chart.series[0].x])
        axes.xaxis.set_minor_formatter(NullFormatter())
        if not chart.is_share:  # so that the ideal is a straight line
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(_short))
            axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1 or (handles and labels[0].startswith("threshold")):
        longest, n = max(map(len, labels)), len(labels)
        most = 1 if longest > 28 else 2 if longest > 14 else 4
        columns = -(-n // -(-n // most))  # rows of equal length, up to one
        if (rows := -(-n // columns)) > _LEGEND_ROWS:  # else a long legend leaves no room for the axes
            figure.set_figheight(figure.get_figheight() + 0.17 * (rows - _LEGEND_ROWS))
        by_rows = [i for column in range(columns) for i in range(column, n, columns)]
        figure.legend(
            [handles[i] for i in by_rows],
            [labels[i] for i in by_rows],
            loc="outside upper left",
            ncols=columns,
            handlelength=1.6,
            columnspacing=1.2,
        )


def color_of(number: int) -> str:
    """Return a colour of the palette; the baseline's is never given twice."""
    return PALETTE[number] if number < len(PALETTE) else PALETTE[1 + (number - 1) % (len(PALETTE) - 1)]


def _label(name: str) -> str:
    """Return a legend entry; matplotlib hides those that begin with an underscore."""
    return printable(name, 36).replace("_", "\u2009_", 1) if name.startswith("_") else printable(name, 36)


def _short(value: float, _: int) -> str:
    return (
        f"{value / 1e6:g}M"
        if abs(value) >= 1e6
        else f"{value / 1e3:g}k"
        if abs(value) >= 1e4
        else f"{value:g}"
    )
