"""Chart of components: what each switch of a method is worth, over pairs of runs that differ in it alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from ..compare.metrics import Curve, differs
from ..selection import METHODS
from .chart import Chart, Series
from .records import Group, Records
from .summary import final_accuracies


@dataclass(frozen=True)
class _Component:
    """A switch ``selection.name``: gain in accuracy with it, its standard error over seeds, of each pair."""

    name: str
    meaning: str
    gain: float
    error: float
    is_beyond: bool
    of_pairs: list[float]


def components(records: Records) -> list[Chart]:
    """Return what each component is worth; nothing unless two or more are switched on and off."""
    found = sorted(_find(records), key=lambda c: -abs(c.gain))
    if len(found) < 2:
        return []
    said = "; ".join(
        f"{c.name} {100 * c.gain:+.2f} points ({'beyond' if c.is_beyond else 'within'} noise, {_range(c)})"
        for c in found
    )
    meanings = " ".join(f"{c.name}: {c.meaning}" for c in found if c.meaning)
    head = ["component", "gain, points", "standard error", "pairs", "least", "most"]
    rows = [
        [c.name, 100 * c.gain, 100 * c.error, len(c.of_pairs), 100 * min(c.of_pairs), 100 * max(c.of_pairs)]
        for c in found
    ]
    return [
        Chart(
            "components",
            "What each component is worth",
            f"Which component matters, in accuracy with it against without: {said}. {meanings}",
            "",
            "gain in accuracy",
            [Series("gain", [c.name for c in found], np.array([c.gain for c in found]))],
            "bars",
            is_share=True,
            table=(head, rows),
        )
    ]


def _range(component: _Component) -> str:
    gains = [100 * gain for gain in component.of_pairs]
    if len(gains) == 1:
        return "in one pair"
    return f"from {min(gains):+.2f} to {max(gains):+.2f} in {len(gains)} pairs"


def _find(records: Records) -> Iterator[_Component]:
    groups = [g for g in records.groups if g.first.is_done and isinstance(g.first.job.get("selection"), dict)]
    pairs: dict[tuple[str, str], list[tuple[Group, Group]]] = {}
    for on, off in permutations(groups, 2):
        if (name := _switch(on, off)) is not None:
            pairs.setdefault((on.first.method, name), []).append((on, off))
    for (method, name), both in pairs.items():
        with_it, without = ([final_accuracies(pair[i]) for pair in both] for i in (0, 1))
        n = min(map(len, with_it + without))
        if not n:
            continue
        means = [np.mean([values[:n] for values in side], axis=0) for side in (with_it, without)]
        gain, error, is_beyond = differs(*([_of_one_epoch(v) for v in side] for side in means))
        of_pairs = [float(np.mean(a) - np.mean(b)) for a, b in zip(with_it, without, strict=True)]
        options = METHODS[method].model_fields if method in METHODS else {}
        meaning = (options[name].description or "") if name in options else ""
        yield _Component(name, meaning, gain, error, is_beyond, of_pairs)


def _switch(on: Group, off: Group) -> str | None:
    """Return the only key in which two jobs differ, if it is a switch of the method, on in the first."""
    a, b = (dict(group.first.job) for group in (on, off))
    with_it, without = a.pop("selection"), b.pop("selection")
    if any(a.get(key) != b.get(key) for key in (a.keys() | b.keys()) - {"name", "seed"}):
        return None
    keys = [key for key in with_it.keys() | without.keys() if with_it.get(key) != without.get(key)]
    is_switch = len(keys) == 1 and with_it.get(keys[0]) is True and without.get(keys[0]) is False
    return keys[0] if is_switch else None


def _of_one_epoch(accuracy: float) -> Curve:
    return Curve(*[np.array([accuracy])] * 5)
