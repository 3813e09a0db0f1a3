"""Markdown tables of keys, written into the READMEs between markers.

``<!-- keys: job -->`` begins a table and ``<!-- end -->`` ends it; what stands between is written anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from ..config.registry import Registry
from ..core.ledger import Ledger
from ..core.plan import Epoch, Plan
from ..data import DATASETS
from ..distributed.comm import SerialComm
from ..selection import METHODS
from ..selection.batch_level import BatchMethod
from ..selection.global_stats import GlobalStats
from ..selection.method import Method
from ..selection.online_subset import OnlineSubset
from ..selection.subsets import SCORES
from ..selection.subsets.scoring import FromOutputs, FromTraining, ScoringMethod
from .keys import Key, comparison_keys, job_keys, machine_keys, own_keys, title_of

_MIDDLE = Epoch(3, 10, 0)
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
    rows = ["| method | chooses by | needs | costs | promises |", "|---|---|---|---|---|"]
    for name in METHODS.own:
        given = {"scores": ["-"]} if "scores" in _required(METHODS[name]) else {}
        method = METHODS[name](method=name, **given)
        cells = (method.selection_level(_MIDDLE), _needs(method), _costs(method), _promises(method))
        rows.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join([*rows, ""])


def _required(method: type[Method]) -> list[str]:
    return [name for name, field in method.model_fields.items() if field.is_required()]


def _needs(method: Method) -> str:
    """Return in words what a method with its default options decides by."""
    files = ["score file"] * ("scores" in _required(type(method)))
    losses = ["losses"] * (method.needs_losses or "loss" in type(method).model_fields)
    vectors = ["vectors"] * isinstance(method, OnlineSubset)
    return ", ".join([*files, *losses, *vectors, *method.forward_columns]) or "nothing"


def _costs(method: Method) -> str:
    """Return in words the passes beyond training, and the memory beyond the ledger, of a method."""
    passes = ["a pass over all before each epoch"] * method.needs_scoring_pass(_MIDDLE)
    passes += ["a pass over all every R epochs"] * isinstance(method, OnlineSubset)
    passes += ["a pass over the hidden"] * (_middle_plan(method).refresh is not None)
    if isinstance(method, BatchMethod):
        passes += ["a pass over candidates"] * method.selection_pass(1).forward
    n_bytes = sum(np.dtype(dtype).itemsize for dtype, _ in method.columns.values())
    return ", ".join([*passes, *[f"{n_bytes} bytes a sample"] * (n_bytes > 0)]) or "nothing"


def _promises(method: Method) -> str:
    """Return in words what holds for every run of a method."""
    split = "the same choice for any split of the rows"
    if isinstance(method, BatchMethod):
        split = "the same choice at the same number of ranks, equal steps"
    promises = [split, *["never hides the unseen"] * (method.needs_losses and not method.may_repeat)]
    if when := method.may_repeat:
        promises.append("may train a sample several times" + (f" {when}" if isinstance(when, str) else ""))
    if 0 < method.max_hidden_fraction < 1:
        promises.append(f"hides at most {method.max_hidden_fraction:.2g}")
    scales = [f"`{name}`" for name in method.scaling_options if getattr(method, name)]
    return ", ".join([*promises, *[f"scales losses or rates by {name}" for name in scales]])


def _middle_plan(method: Method) -> Plan:
    """Return a method's plan of four samples in the middle of a run."""
    ledger = Ledger.unseen(4, 0, 4, method.columns)
    return method.plan(_MIDDLE, ledger, GlobalStats(SerialComm()))


def _scores() -> str:
    rows = ["| method | looks at | after training | file | paper |", "|---|---|---|---|---|"]
    for name in SCORES.own:
        method = SCORES[name](method=name)
        cells = (_looks_at(method), _training_of(method), _file_of(method), title_of(SCORES[name]))
        rows.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join([*rows, "", *_pages(SCORES.own, "scores", "method")])


def _looks_at(method: ScoringMethod) -> str:
    """Return in words what a scoring method needs, and what that costs beyond training."""
    if isinstance(method, FromTraining):
        return "training passes"
    if isinstance(method, FromOutputs):
        return "outputs, one pass" if not method.backward else "outputs, one pass and backward passes"
    return "vectors, one pass and one exchange"


def _training_of(method: ScoringMethod) -> str:
    """Return in words the training that comes before, by default."""
    epochs, repeats = method.default_epochs, method.default_repeats
    return f"{epochs} epochs" + (f", {repeats} seeds" if repeats > 1 else "")


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
