"""JSON Schema of job, machine and comparison files, for editors that complete and check YAML."""

from __future__ import annotations

import json
from typing import Any

from ..cluster.machine import Machine
from ..compare.spec import Comparison
from ..config.data_options import DataOptions
from ..config.job import Job, Model, SelectionOptions
from ..config.options import Options
from ..config.registry import Registry
from ..config.training_options import Training
from ..data import DATASETS
from ..selection import METHODS

KINDS = ("job", "machine", "comparison")
_SECTIONS: dict[str, type[Options]] = {"model": Model, "training": Training}


def schema_text(kind: str) -> str:
    """Return the JSON Schema of one kind of file, as it is kept in ``jobs/schema``."""
    return json.dumps(schema(kind), indent=1, ensure_ascii=False) + "\n"


def schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema of one kind of file, one of KINDS.

    Names that come with the package are listed; a name of an installed package is allowed with any keys.
    """
    models: dict[str, type[Options]] = {"job": Job, "machine": Machine, "comparison": Comparison}
    found = models[kind].model_json_schema()
    if kind == "job":
        properties, definitions = found["properties"], found.setdefault("$defs", {})
        properties["data"] = _choice(DATASETS, "name", definitions) | _described(Job, "data")
        properties["selection"] = _choice(METHODS, "method", definitions) | _described(Job, "selection")
        _require_without_base(found)
        definitions.pop(DataOptions.__name__, None)
        definitions.pop(SelectionOptions.__name__, None)
    return {"$schema": "http://json-schema.org/draft-07/schema#", **found, "title": f"kakurenbo {kind}"}


def _choice(registry: Registry, tag: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a section whose key ``tag`` says which model its other keys belong to."""
    options = [_named(registry[name], tag, name, definitions) for name in registry.own]
    foreign = {
        "type": "string",
        "not": {"enum": registry.own},
        "description": "Of another package: its name, or package.module:Class.",
    }
    options.append({"type": "object", "properties": {tag: foreign}})
    return {"anyOf": options}


def _require_without_base(found: dict[str, Any]) -> None:
    """Require keys of a job and its sections only where it has no base, which may have them."""
    sections = {name: found["$defs"][model.__name__] for name, model in _SECTIONS.items()}
    required = {name: {"required": section.pop("required", [])} for name, section in sections.items()}
    required |= {"data": {"required": ["name"]}, "selection": {"required": ["method"]}}
    found |= {
        "required": ["name"],
        "if": {"required": ["base"]},
        "else": {"required": found["required"], "properties": required},
    }


def _named(model: type[Options], tag: str, name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    one = model.model_json_schema()
    definitions |= one.pop("$defs", {})
    description = one["properties"][tag].get("description")
    one["properties"][tag] = {"const": name} | ({"description": description} if description else {})
    return one | {"title": name}


def _described(model: type[Options], name: str) -> dict[str, Any]:
    return {"description": model.model_fields[name].description}
