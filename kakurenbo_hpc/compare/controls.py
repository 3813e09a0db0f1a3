"""The controls of a comparison that depend on what its contenders spent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..config.job import Job
from .entries import Entry, checked_job, digest
from .metrics import Curve, mean_curve
from .spec import BASELINE, Change, Comparison, change_values


def controls(
    comparison: Comparison, entries: Mapping[str, Entry], curves: Mapping[str, Sequence[Curve]]
) -> Iterator[tuple[str, Entry]]:
    """Yield the controls that depend on what contenders spent.

    Random at each contender's own share in each epoch, as SMRD in Progressive Data Dropout; random, and rs2
    where the comparison wants it, at each fraction that contenders left out (to 0.05); everything for fewer
    epochs at their compute; and, where wanted, everything on smaller training images at their compute. A
    control that is a line of the table already is left out.
    Compute counts a sample's forward pass as 1 and its backward pass as 2, both in proportion to its pixels;
    scores do not count.
    """
    there = {digest(entry.job) for entry in entries.values()}
    for name, control in _controls(comparison, entries, curves):
        if digest(control.job) not in there:
            there.add(digest(control.job))
            yield name, control


def _controls(
    comparison: Comparison, entries: Mapping[str, Entry], curves: Mapping[str, Sequence[Curve]]
) -> Iterator[tuple[str, Entry]]:
    shares, lengths, sides, by_epoch = set(), set(), set(), {}
    for name in comparison.contenders:
        against = entries[name].against
        if name not in curves or against not in curves or entries[name].job.selection.method == BASELINE:
            continue
        spent, whole = mean_curve(curves[name]), mean_curve(curves[against])
        shares.add((against, round(20 * (1 - spent.backward[-1] / whole.backward[-1])) / 20))
        by_epoch[name] = against, _left_out_by_epoch(spent, whole)
        compute = (spent.forward[-1] + 2 * spent.backward[-1]) / (whole.forward[-1] + 2 * whole.backward[-1])
        if epochs := entries[against].job.training.epochs:  # none are known where iterations are given
            lengths.add((against, max(1, round(epochs * compute))))
        sides.add((against, max(0.05, round(20 * compute**0.5) / 20)))
    for name, (against, fractions) in by_epoch.items():
        if len(set(fractions)) > 1:  # else the share that stays the same
            selection = {"method": "random", "fractions": fractions}
            yield f"random as {name}", _control(entries, against, selection=selection)
    for against, share in sorted(shares):
        if 0 < share < 1:
            for method in ("random", "rs2") if "rs2" in comparison.controls else ("random",):
                selection = {"method": method, "fraction": share}
                yield _of(against, f"{method} {share:.2f}"), _control(entries, against, selection=selection)
    for against, length in sorted(lengths):
        if length < entries[against].job.training.epochs:
            yield (
                _of(against, f"{length} epochs"),
                _control(
                    entries, against, training=entries[against].job.training.of_epochs(length).model_dump()
                ),
            )
    for against, side in sorted(sides) if "resolution" in comparison.controls else ():
        if side < 1:
            data = _scaled_down(entries[against].job, side)
            yield _of(against, f"resolution {side:.2f}"), _control(entries, against, data=data)


def _scaled_down(job: Job, side: float) -> dict[str, Any]:
    """Return the keys of data under which training images have a side of this fraction of their own."""
    step = {"downscale": {"side": side}}
    changed: dict[str, Any] = {"augmentation": [*job.data.augmentation, step]}
    if copies := job.data.augmentations_of_repeats():
        changed["repeats"] = [[*steps, step] for steps in copies]
    return changed


def _left_out_by_epoch(spent: Curve, whole: Curve) -> list[float]:
    """Return the fraction that a contender left out in each epoch that both have, to 0.001."""
    n = min(len(spent.backward), len(whole.backward))
    trained = np.diff(spent.backward[:n], prepend=0) / np.diff(whole.backward[:n], prepend=0)
    return np.clip(np.round(1 - trained, 3), 0, 0.999).tolist()


def _of(against: str, control: str) -> str:
    return control if against == BASELINE else f"{against}: {control}"


def _control(entries: Mapping[str, Entry], against: str, **sections: dict[str, Any]) -> Entry:
    job = checked_job(
        change_values(entries[against].job.as_dict(), Change(**sections)), f"control of {against}"
    )
    return Entry(job, against=against)
