"""Summary of runs: the verdict with its spread, and the figures of every group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..compare.metrics import Curve, Spread, differs, spread
from .records import Group, Records, Run


@dataclass(frozen=True)
class Summary:
    """Figures of a group, over its runs that are done, or over all if none is.

    Attributes:
        name: of the group.
        n_runs: how many runs the figures are of.
        n_done: how many of the group's runs are done.
        accuracy: after the last epoch; None without validation.
        seconds: mean, of whole runs.
        forward: mean, samples.
        backward: mean, samples.
        hidden: mean share of samples hidden in an epoch, 0 to 1.
    """

    name: str
    n_runs: int
    n_done: int
    accuracy: Spread | None
    seconds: float
    forward: float
    backward: float
    hidden: float

    @property
    def passes(self) -> float:
        """Forward + 2 x backward passes, samples."""
        return self.forward + 2 * self.backward


def summarize(group: Group) -> Summary:
    """Return the figures of a group."""
    runs, accuracies = _counted(group), final_accuracies(group)

    def mean(*keys: str) -> float:
        return float(np.mean([run.total(*keys)[-1] for run in runs])) if runs else 0.0

    hidden = [run.column("hidden_fraction") for run in runs]
    shares = np.concatenate(hidden) if hidden else np.zeros(0)
    return Summary(
        group.name,
        len(runs),
        sum(run.is_done for run in group.runs),
        spread(accuracies) if accuracies else None,
        mean("seconds", "total"),
        mean("n_forward"),
        mean("n_backward"),
        float(np.nanmean(shares)) if np.isfinite(shares).any() else 0.0,
    )


def final_accuracies(group: Group) -> list[float]:
    """Return the accuracy after the last epoch of each run that counts and was validated."""
    return [float(run.accuracy()[-1]) for run in _counted(group) if np.isfinite(run.accuracy()[-1:]).any()]


def verdicts(records: Records) -> list[str]:
    """Return a sentence for each group: accuracy, seconds and passes against the baseline, hidden share."""
    baseline = records.baseline
    return [
        _alone(group) if baseline is None or group is baseline else _against(group, baseline)
        for group in records.groups
        if group is not baseline or len(records.groups) == 1
    ]


def in_words(accuracy: Spread | None, n: int) -> str:
    """Return an accuracy with its spread over runs."""
    if accuracy is None:
        return "not validated"
    return f"{accuracy.mean:.2%}" + (f" \u00b1 {100 * accuracy.std:.2f}" if n > 1 else "")


def _alone(group: Group) -> str:
    own = summarize(group)
    if not own.n_runs:
        return f"{group.name}: no epoch has ended yet."
    return (
        f"{group.name}: {group.first.measure} {in_words(own.accuracy, own.n_runs)} in {own.seconds:.3g} s, "
        f"{own.hidden:.1%} of the samples hidden; {group.first.state}."
    )


def _against(group: Group, baseline: Group) -> str:
    own, base = summarize(group), summarize(baseline)
    if not own.n_done or not base.n_done or own.accuracy is None or base.accuracy is None:
        unfinished = group if not own.n_done else baseline
        return _alone(group) + f" Not compared: {unfinished.name} {unfinished.first.state}."
    gap, error, is_beyond = differs(*([curve_of(run) for run in _counted(g)] for g in (group, baseline)))
    if np.isnan(error):
        noise = "one seed, so noise is unknown"
    else:
        noise = f"\u00b1 {100 * error:.2f}, " + ("beyond noise" if is_beyond else "within noise")
    return (
        f"{group.name} reaches {own.accuracy.mean:.2%} {group.first.measure}, {100 * gap:+.2f} points "
        f"against {baseline.name} ({noise}), with {_saved(own.seconds, base.seconds, 'seconds')} and "
        f"{_saved(own.passes, base.passes, 'passes')}; "
        f"{own.hidden:.1%} of the samples are hidden in an epoch."
    )


def _saved(own: float, base: float, what: str) -> str:
    share = 1 - own / base if base else 0.0
    if abs(share) < 0.005:
        return f"as many {what}"
    return f"{abs(share):.0%} {'fewer' if share > 0 else 'more'} {what}"


def _counted(group: Group) -> list[Run]:
    return [run for run in group.runs if run.is_done] or [run for run in group.runs if run.lines]


def curve_of(run: Run) -> Curve:
    """Return a run's accuracy and cumulative costs."""
    return Curve(
        accuracy=run.accuracy(),
        steps=run.total("steps"),
        forward=run.total("n_forward"),
        backward=run.total("n_backward"),
        seconds=run.total("seconds", "total"),
    )


def differing_keys(jobs: Sequence[dict]) -> dict[str, list[str]]:
    """Return the keys in which jobs differ, but for name and seed, with the value in each job."""
    flattened = [dict(flat(job)) for job in jobs]
    keys = sorted({key for job in flattened for key in job} - {"name", "seed"})
    values = {key: [job.get(key, "\u2013") for job in flattened] for key in keys}
    return {key: own for key, own in values.items() if len(set(own)) > 1}


def flat(values: dict, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield keys and values as text, with those of sections as ``section.key``."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield prefix + str(key), text
