"""Figures by name: each a function from records to charts; none where the runs do not hold what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..compare.metrics import Curve, mean_curve, pareto_shares, speed_up
from .chart import Chart, Series, mean_series
from .ledgers import hidden_by_age, hidden_per_class, loss_top_bottom, weighted_losses
from .machine import accelerator_utilisation, energy, input_rate, ranks
from .records import Group, Records, Run
from .samples import (
    class_weights,
    confidence_percentiles,
    gradient_agreement,
    gradient_bias,
    sample_history,
    samples,
    selection_probability,
    weight_spread,
)
from .summary import curve_of

MOST_RUNS = 10  # that have figures of their own
MOST_RIDGES = 12
_LEAST_SHARE = 0.001
STAGES = ("train", "refresh", "plan", "evaluate", "checkpoint")
PARTS = ("selection_forward", "training_forward", "backward", "other")
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
        colors = _colors(records)
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


def stages(records: Records) -> list[Chart]:
    """Return the seconds of every stage per epoch, of each run."""
    return _per_run(records, "stages", _stages)


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


def ceiling_and_rate(records: Records) -> list[Chart]:
    """Return the ceiling, the hidden share, what was moved back, and the learning-rate scale of each run."""
    return _per_run(records, "ceiling_and_rate", _ceiling_and_rate, only_hiding=True)


def _ceiling_and_rate(group: Group, name: str) -> Chart:
    run = group.first
    epoch, n = run.column("epoch"), run.column("n_samples")
    hidden = run.column("hidden_fraction")
    series = [
        Series("ceiling", epoch, run.column("max_fraction"), color=0, dashed=True),
        Series("hidden", epoch, hidden, color=1),
        Series("moved back", epoch, run.column("n_moved_back") / n, color=2),
        Series("learning-rate scale - 1", epoch, run.column("lr_scale") - 1, color=3, dashed=True),
    ]
    said = f"{group.name} hides {np.nanmean(hidden):.1%} of the samples on average, "
    said += f"{np.nanmax(hidden):.1%} at most"
    return Chart(
        name,
        f"Ceiling and hidden share: {group.name}",
        f"{said}.",
        "epoch",
        "share of samples",
        [s for s in series if np.isfinite(s.y).any()],
        is_share=True,
    )


def ceiling_rate_speedup(records: Records) -> list[Chart]:
    """Return ceiling, hidden share and seconds saved of every epoch, against the baseline's mean epoch."""
    base = records.baseline
    if base is None or not base.first.lines:
        return []
    mean = np.nanmean(base.first.column("seconds", "total"))

    def figure(group: Group, name: str) -> Chart:
        run = group.first
        saved = 1 - run.column("seconds", "total") / mean
        epoch = run.column("epoch")
        series = [
            Series("ceiling", epoch, run.column("max_fraction"), color=0, dashed=True),
            Series("hidden", epoch, run.column("hidden_fraction"), color=1),
            Series("seconds saved", epoch, saved, color=2),
        ]
        said = (
            f"A mean epoch of {group.name} takes {np.nanmean(saved):.1%} less time than one of {base.name}."
        )
        return Chart(
            name, f"Ceiling, hidden, saved: {group.name}", said, "epoch", "share", series, is_share=True
        )

    return _per_run(records, "ceiling_rate_speedup", figure, only_hiding=True)


def hidden_and_accuracy(records: Records) -> list[Chart]:
    """Return the hidden share and the accuracy of every epoch."""

    def figure(group: Group, name: str) -> Chart:
        run = group.first
        hidden, accuracy = run.column("hidden_fraction"), run.accuracy()
        series = [
            Series("hidden", run.column("epoch"), hidden, color=1),
            Series(run.measure, run.column("epoch"), accuracy, color=2),
        ]
        said = f"In the last epoch {group.name} hides {hidden[-1]:.1%}, at {run.measure} {accuracy[-1]:.2%}."
        return Chart(
            name,
            f"Hidden share and {run.measure}: {group.name}",
            said,
            "epoch",
            "share",
            series,
            is_share=True,
        )

    return _per_run(records, "hidden_and_accuracy", figure, only_hiding=True)


def loss_histogram(records: Records) -> list[Chart]:
    """Return the loss histograms of the epochs as a ridge, with the threshold of the next plan in each."""
    if records.choices.is_weighted:
        epoch = records.choices.epoch
        return _per_run(
            records, "loss_histogram", lambda group, own: weighted_losses(group.first, group.name, own, epoch)
        )
    return _per_run(records, "loss_histogram", _loss_histogram)


def _loss_histogram(group: Group, name: str) -> Chart | None:
    run = group.first
    known = [i for i, line in enumerate(run.lines) if _histogram(line) is not None]
    if not known:
        return None
    chosen = [known[i] for i in np.unique(np.linspace(0, len(known) - 1, MOST_RIDGES).round().astype(int))]
    series, rows = [], []
    for i in chosen:
        edges, counts = _histogram(run.lines[i]) or (np.zeros(2), np.zeros(1))
        coarse = np.append(edges[:-1][::2], edges[-1])  # pairs of bins: single ones are noise to the eye
        shown = np.add.reduceat(counts, np.arange(0, len(counts), 2))
        width = np.diff(np.log(coarse))
        mark = _threshold(run, i, edges, counts)
        epoch = int(run.lines[i]["epoch"])
        middle = np.sqrt(coarse[1:] * coarse[:-1])
        series.append(Series(f"{epoch}", middle, shown / width / counts.sum(), color=1, mark=mark))
        rows.append(
            [epoch, *(quantile(edges, counts, q) for q in (0.1, 0.5, 0.9)), np.nan if mark is None else mark]
        )
    least = min(row[1] for row in rows) / 10
    series = [_from(s, least) for s in series]
    medians = [row[2] for row in rows]
    said = f"The median loss of {group.name} goes from {medians[0]:.3g} to {medians[-1]:.3g}."
    if any(s.mark is not None for s in series):
        said += " A stroke marks the loss below which samples were candidates for hiding in the next epoch."
    head = ["epoch", "10 % below", "median", "90 % below", "threshold"]
    return Chart(
        name, f"Losses: {group.name}", said, "loss", "epoch", series, "ridge", log_x=True, table=(head, rows)
    )


def _from(series: Series, least: float) -> Series:
    """Return a ridge without what lies below: a few samples of tiny losses would take most of the axis."""
    kept = np.asarray(series.x) >= least
    return replace(series, x=np.asarray(series.x)[kept], y=series.y[kept])


def loss_cdf(records: Records) -> list[Chart]:
    """Return the cumulative distribution of the losses after the last epoch of every group."""
    series, said = [], []
    for group in records.groups:
        found = _histogram(group.first.lines[-1]) if group.first.lines else None
        if found is not None:
            edges, counts = found
            share = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
            median = quantile(edges, counts, 0.5)
            kept = share >= _LEAST_SHARE  # a few samples of tiny losses would take most of the axis
            edges, share = edges[kept], share[kept]
            color = _colors(records)[group.name]
            series.append(Series(group.name, edges, share, color=color, dashed=color == 0))
            said.append(f"{group.name} {median:.3g}")
    if not series:
        return []
    sentence = f"Median loss after the last epoch: {'; '.join(said[:6])}."
    return [
        Chart(
            "loss_cdf",
            "Losses after the last epoch",
            sentence,
            "loss",
            "samples below",
            series,
            is_share=True,
            log_x=True,
        )
    ]


def samples_per_second(records: Records) -> list[Chart]:
    """Return forward and backward samples per second of training of every epoch."""
    colors, series, said = _colors(records), [], []
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
    """Return samples/s and efficiency over ranks, where runs are of several numbers of ranks."""
    rates: dict[int, list[float]] = {}
    for run in records.runs:
        ranks, seconds = run.provenance.get("ranks"), np.nansum(run.column("seconds", "train"))
        if isinstance(ranks, int) and seconds > 0:
            rates.setdefault(ranks, []).append(np.nansum(run.column("n_backward")) / seconds)
    if len(rates) < 2:
        return []
    ranks = np.array(sorted(rates), np.float64)
    rate = np.array([np.mean(rates[int(r)]) for r in ranks])
    ideal = rate[0] * ranks / ranks[0]
    last = rate[-1] / ideal[-1]
    said = f"{rate[-1]:,.0f} samples/s on {ranks[-1]:.0f} ranks, {last:.0%} of the ideal from {ranks[0]:.0f}."
    return [
        Chart(
            "scaling",
            "Samples per second over ranks",
            said,
            "ranks",
            "samples / s",
            [Series("ideal", ranks, ideal, color=0, dashed=True), Series("measured", ranks, rate)],
            log_x=True,
        ),
        Chart(
            "scaling_efficiency",
            "Efficiency over ranks",
            said,
            "ranks",
            "efficiency",
            [Series("measured", ranks, rate / ideal)],
            is_share=True,
            log_x=True,
        ),
    ]


def speedup_over_tolerance(records: Records) -> list[Chart]:
    """Return t_b / t_n over the tolerance, of every group against the baseline."""
    curves = {g.name: c for g in records.groups if (c := _mean_curve(g)) is not None}
    base = records.baseline
    if base is None or base.name not in curves or len(curves) < 2:
        return []
    tolerances = np.linspace(0, 0.02, 41)
    colors = _colors(records)
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
    said = f"How many times fewer steps than {base.name} reach its best accuracy less a tolerance."
    return [
        Chart("speedup_over_tolerance", "Speed-up over tolerance", said, "tolerance", "t_b / t_n", series)
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


def from_ledgers(
    name: str, read: Callable[[Run, str, str, float], Chart | None]
) -> Callable[[Records], list[Chart]]:
    """Return a figure that is made of each run's ledger files."""

    def figure(records: Records) -> list[Chart]:
        share = records.choices.share
        return _per_run(records, name, lambda group, own: read(group.first, group.name, own, share))

    return figure


def quantile(edges: np.ndarray, counts: np.ndarray, share: float) -> float:
    """Return the loss below which this share of a histogram lies, interpolated within its bin."""
    below = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    return float(np.interp(share, below, edges))


def _threshold(run: Run, i: int, edges: np.ndarray, counts: np.ndarray) -> float | None:
    """Return the loss of the next epoch's last candidate for hiding; None if there is none."""
    if i + 1 >= len(run.lines):
        return None
    candidates = float(np.nan_to_num(run.column("n_candidates")[i + 1]))
    return quantile(edges, counts, candidates / counts.sum()) if 0 < candidates < counts.sum() else None


def _histogram(line: dict) -> tuple[np.ndarray, np.ndarray] | None:
    found = line.get("loss_histogram")
    if not isinstance(found, dict):
        return None
    try:
        edges, counts = (np.array(found[key], np.float64) for key in ("edges", "counts"))
    except (KeyError, TypeError, ValueError):
        return None
    if len(edges) != len(counts) + 1 or not counts.sum() > 0:
        return None
    positive = edges[:-1] > 0  # what is not has no place on a logarithmic axis
    edges, counts = np.append(edges[:-1][positive], edges[-1]), counts[positive]
    return (edges, counts) if counts.sum() > 0 else None


def _per_run(
    records: Records, name: str, draw: Callable[[Group, str], Chart | None], only_hiding: bool = False
) -> list[Chart]:
    groups = records.hiding if only_hiding else [g for g in records.groups if g.first.lines]
    charts = [draw(g, name if i == 0 else f"{name}_{i + 1}") for i, g in enumerate(groups[:MOST_RUNS])]
    return [chart for chart in charts if chart is not None]


def _colors(records: Records) -> dict[str, int]:
    base = records.baseline
    others = [g.name for g in records.groups if g is not base]
    return {**({base.name: 0} if base else {}), **{name: i for i, name in enumerate(others, 1)}}


def _mean_curve(group: Group) -> Curve | None:
    runs = [run for run in group.runs if run.is_done and np.isfinite(run.accuracy()).all()]
    if not runs:
        return None
    return mean_curve([curve_of(run) for run in runs])


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


FIGURES: dict[str, Callable[[Records], list[Chart]]] = {
    "accuracy_over_seconds": over("accuracy", "seconds"),
    "accuracy_over_steps": over("accuracy", "steps"),
    "accuracy_over_passes": over("accuracy", "passes"),
    "error_over_seconds": over("error", "seconds"),
    "error_over_steps": over("error", "steps"),
    "convergence": convergence,
    "stages": stages,
    "time_parts": time_parts,
    "ceiling_and_rate": ceiling_and_rate,
    "ceiling_rate_speedup": ceiling_rate_speedup,
    "hidden_and_accuracy": hidden_and_accuracy,
    "loss_histogram": loss_histogram,
    "loss_cdf": loss_cdf,
    "loss_top_bottom": from_ledgers("loss_top_bottom", loss_top_bottom),
    "hidden_by_age": from_ledgers("hidden_by_age", hidden_by_age),
    "hidden_per_class": from_ledgers("hidden_per_class", hidden_per_class),
    "samples": samples,
    "selection_probability": selection_probability,
    "sample_history": sample_history,
    "class_weights": class_weights,
    "weight_spread": weight_spread,
    "confidence_percentiles": confidence_percentiles,
    "gradient_agreement": gradient_agreement,
    "gradient_bias": gradient_bias,
    "ranks": ranks,
    "accelerator_utilisation": accelerator_utilisation,
    "input_rate": input_rate,
    "energy": energy,
    "samples_per_second": samples_per_second,
    "scaling": scaling,
    "speedup_over_tolerance": speedup_over_tolerance,
    "pareto": pareto,
}
