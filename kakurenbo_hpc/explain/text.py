"""``kakurenbo explain``, ``methods``, ``datasets``, ``models``: keys and names for a terminal."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Iterable

from ..cluster.text_table import format_table
from ..config.options import Options
from ..config.registry import Registry
from ..data import DATASETS
from ..errors import JobError, nearest
from ..selection import METHODS
from .keys import Key, comparison_keys, job_keys, machine_keys, own_keys, title_of

_INDENT = "    "


def explain(name: str | None) -> str:
    """Return what a key, a section, a method or a data set means; the tree of all keys without a name.

    Args:
        name: ``training.lr``, ``training``, ``selection.kakurenbo``, ``data.deepcam``, ``machine.grace_s``,
            ``comparison``, or a key of any method or data set, ``selection.max_fraction``.

    Raises:
        JobError: nothing is called so; names the nearest.
    """
    if name is None:
        return _tree()
    section, _, rest = name.partition(".")
    if section in ("selection", "data") and rest in _own(section):
        return _page(section, rest)
    keys = _all_keys()
    found = [key for key in keys if key.name == name]
    if found:
        return "\n\n".join(dict.fromkeys(map(_entry, found)))
    below = [key for key in keys if key.name.startswith(f"{name}.")]
    if below:
        return "\n\n".join(dict.fromkeys(map(_entry, below)))
    known = [key.name for key in keys] + [f"{s}.{n}" for s in ("selection", "data") for n in _own(s)]
    raise JobError(f"explain: unknown key {name}; {nearest(name, known)}")


def list_classes(registry: Registry) -> str:
    """Return the names of a registry, where each comes from, and the first line of the page of ours."""
    rows = [("name", "from", "")]
    for name, origin in sorted(registry.origins().items()):
        rows.append((name, origin, title_of(registry[name]) if name in registry.own else ""))
    return format_table(rows)


def list_models(word: str | None) -> str:
    """Return the names of all networks, or of those with a word in them. Imports timm and torchvision."""
    from ..training.libraries import LIBRARIES
    from ..training.model import MODELS

    found = list(MODELS.origins().items())
    for library, networks in LIBRARIES.items():
        known = {name for name, _ in found}
        found += [(f"{library}/{name}" if name in known else name, library) for name in networks.names()]
    rows = [row for row in found if word is None or word.lower() in row[0].lower()]
    if not rows:
        raise JobError(f"models: no name holds {word!r}; {nearest(word or '', [name for name, _ in found])}")
    return format_table([("name", "from"), *rows])


def _tree() -> str:
    methods = ", ".join(METHODS.own)
    datasets = ", ".join(DATASETS.own)
    parts = [
        "A job file",
        _lines(job_keys()),
        f"{_INDENT}selection: further keys belong to the method: {methods}",
        f"{_INDENT}data: further keys belong to the data set: {datasets}",
        "A machine file",
        _lines(machine_keys()),
        "A comparison file",
        _lines(comparison_keys()),
        "kakurenbo explain KEY says more: training.lr, selection.kakurenbo, data.deepcam, machine.grace_s.",
    ]
    return "\n".join(parts)


def _lines(keys: Iterable[Key]) -> str:
    rows = [(_INDENT + key.name, "required" if key.default is None else key.default) for key in keys]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {default[:60]}" for name, default in rows)


def _page(section: str, name: str) -> str:
    model, tag = (METHODS[name], "method") if section == "selection" else (DATASETS[name], "name")
    text = inspect.getdoc(model) or ""
    entries = [_entry(key) for key in own_keys(model, tag, f"{section}.")]
    return "\n\n".join([f"{section}.{tag}: {name}", title_of(model), text, *entries])


def _entry(key: Key) -> str:
    facts = [key.kind, *([key.unit] if key.unit else [])]
    facts.append("required" if key.default is None else f"default {key.default}")
    width = min(shutil.get_terminal_size().columns, 100)
    text = textwrap.fill(key.description, width, initial_indent=_INDENT, subsequent_indent=_INDENT)
    return f"{key.name}  ({'; '.join(facts)})\n{text}"


def _all_keys() -> list[Key]:
    keys = [*job_keys(), *machine_keys(), *comparison_keys()]
    for section, registry, tag in (("selection", METHODS, "method"), ("data", DATASETS, "name")):
        for name in registry.own:
            model: type[Options] = registry[name]
            prefix = f"{section}."
            keys += [
                key._replace(description=f"{key.description} [{name}]")
                for key in own_keys(model, tag, prefix)
            ]
    return keys


def _own(section: str) -> list[str]:
    return METHODS.own if section == "selection" else DATASETS.own
