"""Auxiliary heads: a second prediction from earlier features, whose loss counts in training alone."""

from __future__ import annotations

from typing import NamedTuple

import torch


class WithAuxiliary(NamedTuple):
    """What a network with an auxiliary head returns where gradients are computed in training mode.

    Attributes:
        logits: (k, C, ...), as everywhere else.
        auxiliary: of the same shape, from the auxiliary head.
        weight: of the auxiliary loss, which is added to that of the logits.
    """

    logits: torch.Tensor
    auxiliary: torch.Tensor
    weight: float


def all_logits(output: torch.Tensor | WithAuxiliary) -> torch.Tensor:
    """Return one tensor on which all of a network's parameters act."""
    return output.logits + output.auxiliary if isinstance(output, WithAuxiliary) else output
