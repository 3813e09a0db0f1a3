"""Recipe of a scoring run: method, epochs and repeats, read and checked before any rank starts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...config.options import checked
from ...config.yaml import set_value
from ...errors import JobError, nearest
from . import SCORES
from .scoring import ScoringMethod


@dataclass(frozen=True)
class Recipe:
    """A scoring method, epochs of training before it scores, and repeats with other seeds."""

    method: ScoringMethod
    epochs: int
    repeats: int


def read_options(name: str, given: Sequence[str], hold_out: str | None = None) -> dict[str, Any]:
    """Return the options of a scoring method from ``key=value`` words, and from ``hash:SHARE``.

    Raises:
        JobError: a word has another form, or the method holds nothing out.
    """
    values: dict[str, Any] = {}
    for word in given:
        set_value(values, word, "--option")
    if hold_out is None:
        return values
    how, _, share = hold_out.partition(":")
    if how != "hash" or not re.fullmatch(r"0?\.\d+", share):
        raise JobError(f"--hold-out is {hold_out}, but must be hash:SHARE, such as hash:0.5")
    if name in SCORES and "hold_out" not in SCORES[name].model_fields:
        raise JobError(f"score {name}: holds nothing out; remove --hold-out")
    return {**values, "hold_out": float(share)}


def read_recipe(
    name: str, epochs: int | None = None, repeats: int | None = None, options: Mapping[str, Any] = {}
) -> Recipe:
    """Return the recipe of a scoring method.

    Args:
        name: the method's.
        epochs: of the method's paper if not given.
        repeats: of the method's paper if not given.
        options: of the method.

    Raises:
        JobError: there is no such method or option, or it needs more epochs or fewer repeats.
    """
    if name not in SCORES:
        raise JobError(f"score {name}: no such scoring method; {nearest(name, SCORES.own)}")
    method = checked(SCORES[name], {"method": name, **options}, f"score {name}")
    epochs = method.default_epochs if epochs is None else epochs
    repeats = method.default_repeats if repeats is None else repeats
    fewest = method.fewest_epochs
    if epochs < fewest:
        raise JobError(
            f"score {name}: epochs is {epochs}, but {name} takes at least {fewest}; give --epochs "
            f"{max(fewest, method.default_epochs)}"
        )
    if repeats > 1 and not method.averages:
        raise JobError(
            f"score {name}: repeats is {repeats}, but what {name} writes cannot be averaged; give --repeats 1"
        )
    return Recipe(method, epochs, repeats)
