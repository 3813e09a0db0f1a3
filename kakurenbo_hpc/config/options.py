"""Option models: typed sections of job, machine and comparison files, and their error messages."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ..errors import JobError, nearest, shown


class Options(BaseModel):
    """Section of a file: unknown keys, wrong types and non-finite numbers are errors. Frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def option(default: Any, description: str, unit: str | None = None) -> Any:
    """Declare one key; ``kakurenbo explain``, JSON Schema and the tables of the READMEs are made from it.

    Args:
        default: value where the key is missing; ``...`` if it is required.
        description: what the key means, in one or two sentences.
        unit: "epochs", "seconds", "fraction" ...; None if there is none.
    """
    return Field(default, description=description, json_schema_extra={"unit": unit} if unit else None)


def check_line(value: str) -> str:
    """Return a value that is one line. Raises ValueError for any other."""
    if not value.isprintable() or not value.strip():
        raise ValueError("must be one line of printable characters")
    return value


def _below_one(value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(
            "must be in [0, 1)"
            + (f"; write {value / 100:g} for {value:g} percent" if 1 < value < 100 else "")
        )
    return value


def _file_name(value: str) -> str:
    if not re.fullmatch(r"[^/\x00-\x1f\x7f]{1,100}", value) or value.startswith(".") or not value.strip():
        raise ValueError("must be usable as a folder name: 1 to 100 characters, no '/', no leading dot")
    return value


def expand_path(text: str) -> str:
    """Return a path with ``~`` and ``$VARIABLES`` expanded.

    Raises:
        ValueError: one of them is not known here, or there is no path.
    """
    if not text:
        raise ValueError("is empty; name a path")
    path = os.path.expanduser(os.path.expandvars(text))
    if path.startswith("~") or re.search(r"\$(\w+|\{\w+\})", path):
        raise ValueError(
            "contains a user or a variable that is not known here; set it, or write the path out (./~ for a "
            "folder of that name)"
        )
    return path


def _plain(value: Any, inside: tuple = ()) -> Any:
    """Check that YAML can hold the value: mappings with string keys, lists, strings, finite numbers."""
    if isinstance(value, dict | list) and len(inside) < 20 and not any(value is outer for outer in inside):
        for part in [*value, *value.values()] if isinstance(value, dict) else value:
            _plain(part, (*inside, value))
        good = isinstance(value, list) or all(isinstance(name, str) for name in value)
    else:
        good = (
            value is None
            or isinstance(value, bool | str)
            or (isinstance(value, int | float) and abs(value) < 1e308)
        )
    if not good:
        raise ValueError(
            f"{shown(value)} stands there, but only mappings with names, lists, words and finite numbers may"
        )
    return value


Plain = Annotated[dict[str, Any], AfterValidator(_plain)]
ExpandedPath = Annotated[str, AfterValidator(expand_path)]
FileName = Annotated[str, AfterValidator(_file_name)]
Fraction = Annotated[float, AfterValidator(_below_one)]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Table = Mapping[str, type[Options]]
OptionsT = TypeVar("OptionsT", bound=Options)


def checked(model: type[OptionsT], values: dict, where: str, prefix: str = "") -> OptionsT:
    """Validate the values of a section.

    Raises:
        JobError: for the first error that pydantic finds.
    """
    try:
        return model.model_validate(values)
    except ValidationError as problems:
        raise JobError(f"{where}: {_sentence(problems.errors()[0], model, prefix)}") from None


def pick(values: dict, where: str, section: str, tag: str, table: Mapping[str, type[OptionsT]]) -> OptionsT:
    """Validate a section whose key ``tag`` chooses its option model from the table.

    Raises:
        JobError: the section is missing or invalid, or the tag is not in the table.
    """
    options = values.get(section)
    if not isinstance(options, dict):
        raise JobError(
            f"{where}: section {section} is missing or no mapping; write {section}: {{{tag}: ...}}"
        )
    name = options.get(tag)
    if name is None:
        raise JobError(f"{where}: {section}.{tag} is missing; {nearest('', table)}")
    if not isinstance(name, str) or name not in table:
        raise JobError(f"{where}: unknown {section}.{tag} {shown(name)}; {nearest(shown(name), table)}")
    model = table[name]
    for key in options:
        if key not in model.model_fields:
            # Only built-in models: a plug-in is not imported before a job names it.
            ours = getattr(table, "own", table)
            owners = [other for other in ours if key in table[other].model_fields]
            if owners:
                raise JobError(
                    f"{where}: {section}.{key} is an option of {', '.join(owners)}, not of {name}; remove it"
                )
    return checked(model, options, where, section + ".")


_MEMBERS = ("float", "int", "str", "list", "none")  # of unions, by pydantic's names and our tags


def _sentence(error: Any, model: type[Options], prefix: str) -> str:
    unknown = error["type"] in ("extra_forbidden", "invalid_key")
    # Pydantic names the member of a union that failed; but an unknown key may be called float as well.
    loc = [str(part) for part in error["loc"] if unknown or part not in _MEMBERS]
    name = (prefix + ".".join(loc)).rstrip(".")
    if unknown:
        for part in loc[:-1]:
            model = _within(model, part)
        return f"unknown key {name}; {nearest(loc[-1], model.model_fields)}"
    if error["type"] == "missing":
        return f"{name} is missing; add it"
    if error["type"] == "model_type" and loc:
        for part in loc:
            model = _within(model, part)
        advice = f"write {name}: {_example(model)}"
        return f"{name} is {shown(error['input'])}, but must be a section of keys; {advice}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error" and isinstance(error["input"], dict):
        return f"{name}: {message}" if name else message
    if error["type"] != "value_error":
        message = (
            message.replace("Input should be", "must be")
            .replace("valid ", "")
            .replace("a integer", "an integer")
        )
        message = "it " + message if not message.startswith("must") else message
    if error["type"] == "string_type" and isinstance(error["input"], bool | int | float):
        message += "; quote it"
    return f"{name} is {shown(error['input'])}, but {message}"


def _example(model: type[Options]) -> str:
    """Return the keys that a section needs, or its first one, as YAML on one line."""
    needed = [key for key, field in model.model_fields.items() if field.is_required()]
    keys = needed or list(model.model_fields)[:1]
    return f"{{{', '.join(f'{key}: ...' for key in keys)}}}"


def _within(model: Any, part: str) -> Any:
    """Return the declared type of a key of this model, or of a mapping of models."""
    inner = model.model_fields[part].annotation if hasattr(model, "model_fields") else get_args(model)[-1]
    return (
        next((one for one in get_args(inner) if hasattr(one, "model_fields")), inner)
        if get_origin(inner) is not dict
        else inner
    )
