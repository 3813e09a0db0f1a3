"""Charts of the losses: a ridge of histograms, and their cumulative distribution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .chart import Chart, Series, colors_of, per_run
from .ledgers import weighted_losses
from .records import Group, Records, Run

MOST_RIDGES = 12
_LEAST_SHARE = 0.001


def loss_histogram(records: Records) -> list[Chart]:
    """Return the loss histograms of the epochs as a ridge, with the threshold of the next plan in each."""
    if records.choices.is_weighted:
        epoch = records.choices.epoch
        return per_run(
            records, "loss_histogram", lambda group, own: weighted_losses(group.first, group.name, own, epoch)
        )
    return per_run(records, "loss_histogram", _loss_histogram)


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
            color = colors_of(records)[group.name]
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
