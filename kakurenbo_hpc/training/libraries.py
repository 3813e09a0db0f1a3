"""Networks of other libraries by name: ``resnet50``, or ``torchvision/resnet50`` where several have one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import nn

from ..core.torchvision_compat import timm, torchvision_models
from ..errors import JobError, nearest


class Library(NamedTuple):
    """Networks of one library.

    Attributes:
        has: whether it has a network of a name.
        names: of all its networks.
        build: returns a network by name, number of classes, channels of its input, and options.
    """

    has: Callable[[str], bool]
    names: Callable[[], Iterable[str]]
    build: Callable[[str, int, int, dict[str, Any]], nn.Module]


def _build_timm(name: str, n_classes: int, channels: int, options: dict[str, Any]) -> nn.Module:
    return timm().create_model(name, num_classes=n_classes, in_chans=channels, **options)


def _build_torchvision(name: str, n_classes: int, channels: int, options: dict[str, Any]) -> nn.Module:
    # GoogLeNet's and Inception's further heads are for a loss of several outputs, which is of one here.
    defaults = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision_models().get_model(name, num_classes=n_classes, **defaults | options)


LIBRARIES = {
    "timm": Library(lambda name: timm().is_model(name), lambda: timm().list_models(), _build_timm),
    "torchvision": Library(
        lambda name: name in torchvision_models().list_models(),
        lambda: torchvision_models().list_models(),
        _build_torchvision,
    ),
}
"""A name alone is looked up in this order."""


def find_network(name: str) -> tuple[Library, str] | None:
    """Return the library of a network and its name there; None if no library has it. Imports both."""
    prefix, slash, plain = name.partition("/")
    if slash and prefix in LIBRARIES:
        library = LIBRARIES[prefix]
        if not library.has(plain):
            near = nearest(plain, library.names())
            raise JobError(f"model.name is {name!r}, but {prefix} has no {plain}; {near}")
        return library, plain
    return next(((library, name) for library in LIBRARIES.values() if library.has(name)), None)
