"""Charts of time: stages, parts of a step, samples per second, and what scaling.py measured of a sweep."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np

from .chart import Chart, Series, colors_of, per_run
from .records import Group, Records, Run, printable
from .scaling import Scaling, measure_scaling

STAGES = ("train", "refresh", "plan", "evaluate", "checkpoint")  # of rundir/timers.py, as bars are stacked
PARTS = ("selection_forward", "training_forward", "backward", "other")
WAITS = ("data_wait", "gradient_exchange")
_IN_WORDS = {"data_wait": "waiting for data", "gradient_exchange": "gradient exchange"}
_STEP = re.compile(r"(nodes|ranks|seed)_\d+")  # folders of a sweep


def stages(records: Records) -> list[Chart]:
    """Return the seconds of every stage per epoch, of each run."""
    return per_run(records, "stages", _stages)


def _stages(group: Group, name: str) -> Chart | None:
    run = group.first
    known = [(stage, run.column("seconds", stage)) for stage in STAGES]
    known = [(stage, values) for stage, values in known if np.nansum(values) > 0]
    if not known:
        return None
    whole = sum(np.nansum(values) for _, values in known)
    shares = ", ".join(f"{stage} {np.nansum(values) / whole:.1%}" for stage, values in known)
    series = [
        Series(stage, run.column("epoch"), np.nan_to_num(values), color=STAGES.index(stage) + 1)
        for stage, values in known
    ]
    return Chart(
        name,
        f"Seconds per epoch: {group.name}",
        f"Where the time of {group.name} went: {shares}.",
        "epoch",
        "seconds",
        series,
        "stack",
    )


def time_parts(records: Records) -> list[Chart]:
    """Return the seconds of selection, forward, backward and the rest as a bar of each group."""
    groups = [g for g in records.groups if np.nansum(g.first.column("seconds", "backward")) > 0]
    if not groups:
        return []
    parts = {p: np.array([np.nansum(g.first.column("seconds", p)) for g in groups]) for p in PARTS}
    series = [
        Series(part.replace("_", " "), [g.name for g in groups], values, color=i)
        for i, (part, values) in enumerate(parts.items(), 1)
    ]
    totals = np.sum(list(parts.values()), axis=0)
    said = "; ".join(
        f"{g.name} {100 * parts['backward'][i] / totals[i]:.0f}% backward of {totals[i]:.3g} s"
        for i, g in enumerate(groups[:6])
    )
    return [Chart("time_parts", "Time by part of the step", f"{said}.", "", "seconds", series, "bars")]


def samples_per_second(records: Records) -> list[Chart]:
    """Return forward and backward samples per second of training of every epoch."""
    colors, series, said = colors_of(records), [], []
    for group in records.groups:
        run = group.first
        seconds = run.column("seconds", "train") + np.nan_to_num(run.column("seconds", "refresh"))
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = run.column("n_forward") / seconds
        if np.isfinite(rate).any():
            color = colors[group.name]
            series.append(Series(group.name, run.column("epoch"), rate, color=color, dashed=color == 0))
            said.append(f"{group.name} {np.nanmedian(rate):,.0f}")
    sentence = f"Samples forward in a second of training and refreshing, median epoch: {'; '.join(said[:6])}."
    return (
        [Chart("samples_per_second", "Samples per second", sentence, "epoch", "samples / s", series)]
        if series
        else []
    )


def scaling(records: Records) -> list[Chart]:
    """Return rate and efficiency over ranks beside the ideal, and the share of each stage, of every sweep."""
    charts: list[Chart] = []
    for name, runs in _sweeps(records).items():
        found = measure_scaling(runs)
        if found is not None:
            number = f"_{len(charts) // 3 + 1}" if charts else ""
            charts += [draw(found, name, number) for draw in (_rate, _efficiency, _stages_by_ranks)]
    return charts


def _sweeps(records: Records) -> dict[str, list[Run]]:
    """Return the runs by sweep and method: those on several numbers of ranks that lie in one folder."""
    sweeps: dict[tuple[Path, str], list[Run]] = {}
    for run in records.runs:
        above = next((p for p in run.path.parents if not _STEP.fullmatch(p.name)), run.path)
        sweeps.setdefault((above, run.method), []).append(run)
    n_of_method = Counter(method for _, method in sweeps)
    return {
        method if n_of_method[method] == 1 else f"{method} ({printable(folder.name)})": runs
        for (folder, method), runs in sweeps.items()
    }


def _rate(found: Scaling, name: str, number: str) -> Chart:
    ranks, rate = _of_ranks(found), np.array([s.samples_per_second for s in found.scales])
    last = found.scales[-1]
    said = (
        f"{found.kind.capitalize()} scaling of {name}: {last.samples_per_second:,.0f} samples/s on "
        f"{last.ranks} ranks, {last.speed_up:.2f} times the rate of {found.scales[0].ranks}."
    )
    values = [
        (s.ranks, s.nodes, s.global_batch, s.samples_per_second, s.speed_up, s.node_hours, s.accuracy)
        for s in found.scales
    ]
    head = ["ranks", "nodes", "batch", "samples / s", "speed-up", "node-hours", "accuracy"]
    rows = [[np.nan if value is None else float(value) for value in row] for row in values]
    series = [
        Series("ideal", ranks, rate[0] * ranks / ranks[0], color=0, dashed=True),
        Series("measured", ranks, rate),
    ]
    return Chart(
        f"scaling{number}",
        f"Samples per second, {found.kind} scaling: {name}",
        " ".join([said, *map(_sentence, found.notes)]),
        "ranks",
        "samples / s",
        series,
        log_x=True,
        table=(head, rows),
    )


def _efficiency(found: Scaling, name: str, number: str) -> Chart:
    ranks, first = _of_ranks(found), found.scales[0]
    shares = np.array([s.speed_up * first.ranks / s.ranks for s in found.scales])
    said = f"{shares[-1]:.0%} of the ideal rate on {ranks[-1]:.0f} ranks."
    if any(s.oversubscribed for s in found.scales):
        said += " Ranks share cores where they are oversubscribed: it says nothing of nodes."
    return Chart(
        f"scaling_efficiency{number}",
        f"Efficiency, {found.kind} scaling: {name}",
        said,
        "ranks",
        "rate / ideal rate",
        [
            Series("ideal", ranks, np.ones(len(ranks)), color=0, dashed=True),
            Series("measured", ranks, shares),
        ],
        is_share=True,
        log_x=True,
    )


def _stages_by_ranks(found: Scaling, name: str, number: str) -> Chart:
    labels = [f"{s.ranks} ranks" if s.ranks > 1 else "1 rank" for s in found.scales]
    shares = {
        stage: np.array([s.shares.get(stage, 0.0) for s in found.scales]) for stage in (*STAGES, *WAITS)
    }
    # Waiting is a part of training, and shown apart from it.
    shares["train"] = np.maximum(shares["train"] - shares["data_wait"] - shares["gradient_exchange"], 0)
    series = [
        Series(_IN_WORDS.get(stage, stage), labels, share, color=color)
        for color, (stage, share) in enumerate(shares.items(), 1)
        if share.any()
    ]
    least, most = found.scales[0], found.scales[-1]
    gone = [sum(s.shares.get(wait, 0.0) for wait in WAITS) for s in (least, most)]
    said = (
        f"Waiting for data and for gradients takes {gone[0]:.1%} of an epoch on {least.ranks} and "
        f"{gone[1]:.1%} on {most.ranks} ranks."
    )
    title = f"Share of each stage: {name}"
    return Chart(f"scaling_stages{number}", title, said, "", "share", series, "bars", is_share=True)


def _of_ranks(found: Scaling) -> np.ndarray:
    return np.array([s.ranks for s in found.scales], np.float64)


def _sentence(note: str) -> str:
    return f"{note[0].upper()}{note[1:]}."
