"""Markdown tables of keys, written into the READMEs between markers.

``<!-- keys: job -->`` begins a table and ``<!-- end -->`` ends it; what stands between is written anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..config.registry import Registry
from ..data import DATASETS
from ..selection import METHODS
from ..selection.subsets import SCORES
from ..selection.subsets.scoring import FromOutputs, FromTraining, ScoringMethod
from .keys import Key, comparison_keys, job_keys, machine_keys, own_keys, title_of

_MARKED = re.compile(r"(<!-- keys: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str) -> str:
    """Return a README with the table of each of its markers."""
    return _MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}", text)


def _job() -> str:
    return _table(job_keys())


def _machine() -> str:
    return _table(key._replace(name=key.name.removeprefix("machine.")) for key in machine_keys())


def _comparison() -> str:
    return _table(key._replace(name=key.name.removeprefix("comparison.")) for key in comparison_keys())


def _data() -> str:
    return "\n".join(_pages(DATASETS.own, "data", "name"))


def _selection() -> str:
    return "\n".join(_pages(METHODS.own, "selection", "method"))


def _methods() -> str:
    rows = [f"| `{name}` | {title_of(METHODS[name])} |" for name in METHODS.own]
    return "\n".join(["| method | paper |", "|---|---|", *rows, ""])


def _scores() -> str:
    rows = ["| method | looks at | file | paper |", "|---|---|---|---|"]
    for name in SCORES.own:
        method = SCORES[name](method=name)
        rows.append(f"| `{name}` | {_looks_at(method)} | {_file_of(method)} | {title_of(SCORES[name])} |")
    return "\n".join([*rows, "", *_pages(SCORES.own, "scores", "method")])


def _looks_at(method: ScoringMethod) -> str:
    """Return in words what a scoring method needs, and what that costs beyond training."""
    if isinstance(method, FromTraining):
        return "training passes"
    if isinstance(method, FromOutputs):
        return "outputs, one pass" if not method.backward else "outputs, one pass and backward passes"
    return "vectors, one pass and one exchange"


def _file_of(method: ScoringMethod) -> str:
    """Return in words what stands in a score file of a method with its default options."""
    if method.places == "none":
        return "scores, any fraction"
    within = "places within classes" if method.places == "class" else "places among all"
    parts = [within, "any fraction" if method.nests else "its own fraction", *["weights"] * method.weighted]
    return ", ".join(parts)


TABLES = {
    "job": _job,
    "machine": _machine,
    "comparison": _comparison,
    "data": _data,
    "selection": _selection,
    "methods": _methods,
    "scores": _scores,
}


def _pages(names: Iterable[str], section: str, tag: str) -> Iterable[str]:
    registries: dict[str, Registry] = {"selection": METHODS, "data": DATASETS, "scores": SCORES}
    registry = registries[section]
    for name in names:
        keys = own_keys(registry[name], tag, "")
        yield f"**`{name}`**: {title_of(registry[name])}\n"
        if keys:
            yield _table(keys)


def _table(keys: Iterable[Key]) -> str:
    rows = ["| key | value | default | what it means |", "|---|---|---|---|"]
    for key in keys:
        kind = key.kind + (f" ({key.unit})" if key.unit else "")
        default = "required" if key.default is None else f"`{key.default}`"
        cells = (f"`{key.name}`", kind, default, key.description)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*rows, ""])
