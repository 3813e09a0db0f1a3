"""Command-line arguments of a training script: --hide METHOD, and --hide-OPTION for each of its options."""

from __future__ import annotations

import argparse
from typing import Any

import yaml

from ..config.yaml import load_yaml
from ..selection import METHODS
from ..selection.batch_level import BatchMethod
from ..selection.online_subset import OnlineSubset

# Online subsets are chosen by passes that only the driver makes.
EPOCH_LEVEL = {
    name: METHODS[name] for name in METHODS.own if not issubclass(METHODS[name], BatchMethod | OnlineSubset)
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add arguments for every epoch-level method and its options."""
    group = parser.add_argument_group("hiding", "which samples are trained in each epoch")
    group.add_argument("--hide", metavar="METHOD", default="everything", help=", ".join(EPOCH_LEVEL))
    owners: dict[str, list[str]] = {}
    for name, method in EPOCH_LEVEL.items():
        for option in method.model_fields.keys() - {"method"}:
            owners.setdefault(option, []).append(name)
    for option in sorted(owners):
        group.add_argument(
            "--hide-" + option.replace("_", "-"),
            dest=f"hide_{option}",
            metavar="VALUE",
            type=_parse_value,
            help="of " + ", ".join(owners[option]),
        )


def read_arguments(arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Return the name of the method, and the options that were given."""
    options = {
        name.removeprefix("hide_"): value
        for name, value in vars(arguments).items()
        if name.startswith("hide_") and value is not None
    }
    return arguments.hide, options


def _parse_value(text: str) -> Any:
    """Return the value of a YAML text: 0.3, true, [0, 30, 60], a name."""
    try:
        return load_yaml(text)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid YAML; quote it") from None
