"""Imports of timm and torchvision that work with any build of torch, made only where a job needs them."""

from __future__ import annotations

import importlib
import threading
from functools import cache
from types import ModuleType

import torch

_MISSING = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_LOCK = threading.Lock()


def timm() -> ModuleType:
    """Return the module timm, with its optimizers and schedules."""
    _declare_missing_operators()
    importlib.import_module("timm.optim")
    importlib.import_module("timm.scheduler")
    return importlib.import_module("timm")


def torchvision_models() -> ModuleType:
    """Return the module torchvision.models."""
    _declare_missing_operators()
    return importlib.import_module("torchvision.models")


def transforms() -> ModuleType:
    """Return the module torchvision.transforms.v2."""
    _declare_missing_operators()
    return importlib.import_module("torchvision.transforms.v2")


def segmentation_models() -> ModuleType:
    """Return the module segmentation_models_pytorch. Raises ModuleNotFoundError if it is not installed."""
    _declare_missing_operators()
    return importlib.import_module("segmentation_models_pytorch")


def _declare_missing_operators() -> None:
    """Let torchvision be imported beside a torch without CUDA; threads that read images may come at once."""
    with _LOCK:
        _library_of_missing_operators()


@cache
def _library_of_missing_operators() -> torch.library.Library | None:
    """Declare the operators that torchvision misses.

    Its compiled operators do not load there, and the import fails for want of their schemas.

    Returns:
        The library that keeps the schemas alive; None where nothing is missing.
    """
    if torch.version.cuda or hasattr(torch.ops.torchvision, "nms"):
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _MISSING:
        library.define(schema)
    return library
