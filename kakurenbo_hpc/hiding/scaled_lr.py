"""Learning rate of an optimizer, scaled during its steps by hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from ..errors import LoopError


def scale_steps(optimizer: Optimizer, lr_scale: Callable[[], float]) -> None:
    """Multiply the learning rate by ``lr_scale`` in every step of this optimizer from now on.

    Args:
        optimizer: runs hooks, see ``find_hooked``.
        lr_scale: returns the factor of a step.
    """
    rates: list[list[Any]] = []  # of each step under way: a subclass may call its parent's step in its own

    def scale(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        rates.append([group["lr"] for group in optimizer.param_groups])
        for group in optimizer.param_groups if len(rates) == 1 else ():
            group["lr"] = group["lr"] * lr_scale()

    def restore(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group, rate in zip(optimizer.param_groups, rates.pop(), strict=True):
            group["lr"] = rate

    optimizer.register_step_pre_hook(scale)
    optimizer.register_step_post_hook(restore)


def find_hooked(optimizer: Any) -> Optimizer:
    """Return the optimizer whose step runs hooks: this one, or the one that it wraps.

    Wrappers (accelerate's, timm's Lookahead) are optimizers by name that never were initialised as such.

    Raises:
        LoopError: there is none.
    """
    inner = optimizer
    while not getattr(getattr(type(inner), "step", None), "hooked", False):  # set by torch.optim
        wrapped = [part for part in getattr(inner, "__dict__", {}).values() if isinstance(part, Optimizer)]
        if not wrapped:
            raise LoopError(
                f"hiding: scale_lr got {type(optimizer).__name__}, whose step runs no hooks; give the "
                "optimizer of torch.optim that it wraps"
            )
        inner = wrapped[0]
    return inner
