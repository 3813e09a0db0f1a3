"""Markdown tables of keys, written into the READMEs between markers.

``<!-- keys: job -->`` begins a table and ``<!-- end -->`` ends it; what stands between is written anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..data import DATASETS
from ..selection import METHODS
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


TABLES = {
    "job": _job,
    "machine": _machine,
    "comparison": _comparison,
    "data": _data,
    "selection": _selection,
    "methods": _methods,
}


def _pages(names: Iterable[str], section: str, tag: str) -> Iterable[str]:
    registry = METHODS if section == "selection" else DATASETS
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
