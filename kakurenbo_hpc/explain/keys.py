"""Keys of job, machine and comparison files, read off the option models that check them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ..cluster.machine import Machine
from ..compare.spec import Comparison
from ..config.data_options import DataOptions
from ..config.job import Job, Model, Record, WorldOptions
from ..config.options import Options
from ..config.training_options import Training
from ..data import DATASETS
from ..selection import METHODS

SECTIONS: dict[str, type[Options]] = {
    "data": DataOptions,
    "model": Model,
    "training": Training,
    "world": WorldOptions,
    "record": Record,
}
_TYPES = {"boolean": "true or false", "object": "mapping", "integer": "integer", "null": "null"}


class Key(NamedTuple):
    """One key of a file.

    Attributes:
        name: as ``explain`` takes it, ``training.lr``.
        kind: what its value may be, in words.
        default: as YAML writes it; None where the key is required.
        unit: "epochs", "seconds", "fraction"; None without one.
        description: what it means.
    """

    name: str
    kind: str
    default: str | None
    unit: str | None
    description: str


def keys_of(model: type[Options], prefix: str = "", without: type[Options] | None = None) -> list[Key]:
    """Return the keys of an option model.

    Args:
        model: the model.
        prefix: what stands before each name, ``training.``.
        without: a model whose keys are left out.
    """
    schema = model.model_json_schema()
    left_out = without.model_fields if without else {}
    return [
        _key(prefix + name, field, schema["properties"][name], schema.get("$defs", {}))
        for name, field in model.model_fields.items()
        if name not in left_out
    ]


def own_keys(model: type[Options], tag: str, prefix: str) -> list[Key]:
    """Return the keys of a method, or of a data set, beyond its name and what all of its kind take."""
    without = DataOptions if issubclass(model, DataOptions) else None
    return [key for key in keys_of(model, prefix, without) if key.name != prefix + tag]


def job_keys() -> Iterator[Key]:
    """Yield the keys of a job file but for the options of single methods and data sets."""
    for key in keys_of(Job):
        if key.name not in SECTIONS and key.name != "selection":
            yield key
    for section, model in SECTIONS.items():
        yield from keys_of(model, f"{section}.")
    yield Key("selection.method", "string", None, None, "Selection method (kakurenbo methods lists them).")


def machine_keys() -> list[Key]:
    """Return the keys of a machine file."""
    return keys_of(Machine, "machine.")


def comparison_keys() -> list[Key]:
    """Return the keys of a comparison file."""
    return keys_of(Comparison, "comparison.")


def title_of(model: type[Options]) -> str:
    """Return the first line of the page of a method or data set: its paper, or what it is."""
    page = inspect.getdoc(inspect.getmodule(model)) or inspect.getdoc(model) or ""
    return page.splitlines()[0] if page else ""


def chosen(section: str) -> tuple[Mapping[str, Any], str]:
    """Return the table that a section's own key chooses from, and that key."""
    return (METHODS, "method") if section == "selection" else (DATASETS, "name")


def _key(name: str, field: FieldInfo, schema: dict, definitions: dict) -> Key:
    default = None if field.is_required() else _default(field)
    return Key(name, _kind(schema, definitions), default, schema.get("unit"), field.description or "")


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return ""
    plain = value.model_dump(mode="json") if isinstance(value, Options) else value
    return json.dumps(plain, ensure_ascii=False, default=str)


def _kind(schema: dict, definitions: dict) -> str:
    """Return in words what JSON Schema says of a value."""
    if "$ref" in schema:
        return "mapping"
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return " or ".join(str(value) for value in schema["enum"])
    if members := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_kind(one, definitions) for one in members))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}), definitions)}"
    kind = _TYPES.get(schema.get("type", ""), schema.get("type", "any value"))
    return kind + _limits(schema)


def _limits(schema: dict) -> str:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if high is not None and high >= 2**31:
        high = None
    if low is None and high is None:
        return ""
    if high is None:
        return f" {'above' if 'exclusiveMinimum' in schema else 'from'} {low:g}"
    left = "(" if "exclusiveMinimum" in schema or low is None else "["
    right = ")" if "exclusiveMaximum" in schema else "]"
    return f" in {left}{'-inf' if low is None else f'{low:g}'}, {high:g}{right}"
