"""Charts of what was hidden, epoch by epoch."""

from __future__ import annotations

import numpy as np

from .chart import Chart, Series, per_run
from .records import Group, Records


def ceiling_and_rate(records: Records) -> list[Chart]:
    """Return the ceiling, the hidden share, what was moved back, and the learning-rate scale of each run."""
    return per_run(records, "ceiling_and_rate", _ceiling_and_rate, only_hiding=True)


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

    return per_run(records, "ceiling_rate_speedup", figure, only_hiding=True)


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

    return per_run(records, "hidden_and_accuracy", figure, only_hiding=True)
