"""YAML files: YAML 1.2 floats, no ambiguous numbers, no duplicate keys, bounded aliases."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Hashable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from ..errors import JobError, shown

_MAX_VALUES = 100_000  # of a file with its aliases expanded; nested aliases grow exponentially


def read_yaml(path: str | Path) -> dict:
    """Read the mapping in a YAML file.

    Raises:
        JobError: the file is missing, unreadable or not a mapping.
    """
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


_FLOAT_1_2 = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
# YAML 1.1 reads 010 as 8 and 1:30 as 90, YAML 1.2 as 10 and as text.
_AMBIGUOUS = re.compile(r"[-+]?0[0-9_]*[0-9][0-9_]*$|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?$")
_AMBIGUOUS_TAG = "ambiguous number"


class _AmbiguousNumberError(yaml.YAMLError):
    """Plain scalar that YAML 1.1 and 1.2 read differently."""


class _Loader(yaml.SafeLoader):
    """Safe YAML with 1e-3 as a number and dates as text (YAML 1.2).

    Duplicate keys, numbers that YAML 1.1 and 1.2 read differently, and too many aliased values are errors.
    """

    def construct_ambiguous_number(self, node: yaml.ScalarNode) -> Any:
        raise _AmbiguousNumberError(
            f"{node.value}, line {node.start_mark.line + 1}: YAML reads this as octal or to base 60; write "
            "a plain decimal number, or quote it if it is text"
        )

    def construct_document(self, node: yaml.Node) -> Any:
        if (n := _n_values(node, {})) > _MAX_VALUES:
            raise yaml.YAMLError(
                f"written out, its aliases are {n:,} values; at most {_MAX_VALUES:,} are read"
            )
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        if isinstance(node, yaml.MappingNode):
            seen: set[Hashable] = set()
            for key_node in (k for k, _ in node.value if k.tag != "tag:yaml.org,2002:merge"):
                key = self.construct_object(key_node, deep=True)
                if key in seen:
                    raise yaml.YAMLError(
                        f"key {key} stands twice, line {key_node.start_mark.line + 1}; keep one"
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Safe YAML that quotes each text which ``_Loader`` would not read as text."""


for _yaml in (_Loader, _Dumper):
    _yaml.yaml_implicit_resolvers = {
        first: [entry for entry in entries if entry[0] != "tag:yaml.org,2002:timestamp"]
        for first, entries in _yaml.yaml_implicit_resolvers.items()
    }
    for first in "-+.0123456789":
        _yaml.yaml_implicit_resolvers.setdefault(first, [])[:0] = [
            (_AMBIGUOUS_TAG, _AMBIGUOUS),
            ("tag:yaml.org,2002:float", _FLOAT_1_2),
        ]
_Loader.add_constructor(_AMBIGUOUS_TAG, _Loader.construct_ambiguous_number)


def _n_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values of a node with aliases expanded; a node inside itself counts as none."""
    if id(node) not in known:
        known[id(node)] = 0
        if isinstance(node, yaml.ScalarNode):
            parts: Iterable[yaml.Node] = ()
        else:
            parts = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_n_values(part, known) for part in parts)
    return known[id(node)]


def load_yaml(text: str) -> Any:
    """Parse YAML text.

    Raises:
        YAMLError: the text is not valid YAML, whichever error PyYAML's constructors raise.
    """
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


def dump_yaml(values: dict) -> str:
    """Return YAML text that ``load_yaml`` reads as the same values, in their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


def set_value(values: dict, override: str, flag: str = "--set") -> None:
    """Apply one ``section.key=value`` to a job's values.

    Raises:
        JobError: the override is malformed.
    """
    name, equals, text = override.partition("=")
    if not equals or not all(name.split(".")):
        raise JobError(
            f"{flag} {override}: not of the form section.key=value; for example {flag} training.epochs=5"
        )
    try:
        value = load_yaml(text)
    except _AmbiguousNumberError as problem:
        raise JobError(f"{flag} {override}: {problem}") from None
    except yaml.YAMLError:
        raise JobError(f"{flag} {override}: the value is not valid YAML; quote it") from None
    *sections, last = name.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise JobError(f"{flag} {override}: {section} is not a section; name a key that holds a value")
    values[last] = value
