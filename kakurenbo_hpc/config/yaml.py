"""YAML as people write it, read without running anything, and without growing without end."""

from __future__ import annotations

import difflib
import os
import re
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from ..errors import JobError, shown

_MOST_VALUES = 100_000  # of a YAML file, in which an alias of an alias of an alias doubles and doubles


def read_yaml(path: str | Path) -> dict:
    """Return the mapping in a YAML file. Raises JobError if it is not there or is no mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        siblings = [p.name for p in Path(path).parent.glob("*.yaml")] if Path(path).parent.is_dir() else []
        near = difflib.get_close_matches(Path(path).name, siblings, n=1)
        raise JobError(
            f"{path}: no such file" + (f"; did you mean {Path(path).with_name(near[0])}?" if near else "")
        ) from None
    except (OSError, UnicodeDecodeError) as problem:
        reason = (
            os.strerror(problem.errno) if isinstance(problem, OSError) and problem.errno else "not UTF-8 text"
        )
        raise JobError(f"{path}: cannot be read ({reason}); give a YAML file") from None
    try:
        values = load_yaml(text)
    except yaml.YAMLError as problem:
        raise JobError(f"{path}: not valid YAML ({' '.join(str(problem).split())})") from None
    if not isinstance(values, dict):
        raise JobError(f"{path}: found {shown(values)}, but a mapping of sections is needed")
    return values


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number, as in YAML 1.2; a key given twice is an error, and so are aliases of aliases without end."""

    def construct_document(self, node):
        if (n := _written_out(node, {})) > _MOST_VALUES:
            raise yaml.YAMLError(
                f"written out, its aliases are {n:,} values; at most {_MOST_VALUES:,} are read"
            )
        return super().construct_document(node)

    def construct_mapping(self, node, deep=False):
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key_node in (k for k, _ in node.value if k.tag != "tag:yaml.org,2002:merge"):
                key = self.construct_object(key_node, deep=True)
                if key in seen:
                    raise yaml.YAMLError(
                        f"key {key} stands twice, line {key_node.start_mark.line + 1}; keep one"
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a node holds once every alias is what it stands for; in itself, a node counts as none."""
    if id(node) not in known:
        known[id(node)] = 0
        if isinstance(node, yaml.ScalarNode):
            parts = ()
        else:
            parts = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]


def load_yaml(text: str) -> Any:
    """Return what the YAML text says. Raises YAMLError, whatever PyYAML's constructors stumble over."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except (
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as problem:  # !!int '' is an IndexError, for example
        raise yaml.YAMLError(str(problem)) from None


def set_value(values: dict, override: str) -> None:
    """Lay one ``section.key=value`` over a job's values. Raises JobError."""
    name, equals, text = override.partition("=")
    if not equals or not all(name.split(".")):
        raise JobError(
            f"--set {override}: not of the form section.key=value; for example --set training.epochs=5"
        )
    try:
        value = load_yaml(text)
    except yaml.YAMLError:
        raise JobError(f"--set {override}: the value is not valid YAML; quote it") from None
    *sections, last = name.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise JobError(f"--set {override}: {section} is not a section; name a key that holds a value")
    values[last] = value
