"""A script's method by launch parameters: --hide METHOD, and --hide-OPTION for each of its options."""

from __future__ import annotations

import argparse
from typing import Any

import yaml

from ..config.yaml import load_yaml
from ..selection import METHODS
from ..selection.batch_level import BatchMethod

EPOCH_LEVEL = {name: METHODS[name] for name in METHODS.own if not issubclass(METHODS[name], BatchMethod)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let a command line choose any epoch-level method and its options."""
    group = parser.add_argument_group("hiding", "which samples are trained in each epoch")
    group.add_argument("--hide", metavar="METHOD", default="everything", help=", ".join(EPOCH_LEVEL))
    owners: dict[str, list[str]] = {}
    for name, model in EPOCH_LEVEL.items():
        for option in model.model_fields.keys() - {"method"}:
            owners.setdefault(option, []).append(name)
    for option in sorted(owners):
        flag = "--hide-" + option.replace("_", "-")
        group.add_argument(
            flag, dest=f"hide_{option}", metavar="VALUE", type=_value, help="of " + ", ".join(owners[option])
        )


def chosen(arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Return the method's name and the options that were given."""
    given = {
        name.removeprefix("hide_"): value
        for name, value in vars(arguments).items()
        if name.startswith("hide_")
    }
    return arguments.hide, {name: value for name, value in given.items() if value is not None}


def _value(text: str) -> Any:
    """Return what a word says: 0.3, true, [0, 30, 60], a name."""
    try:
        return load_yaml(text)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid YAML; quote it") from None
