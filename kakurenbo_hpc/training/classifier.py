"""The linear classifier of a network: found by a probe, observed in forward passes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..errors import JobError

_TOLERANCE = 1e-5  # of the largest logit
_Layer = nn.Linear | nn.Conv2d
_Call = tuple[str, _Layer, torch.Tensor, torch.Tensor]  # name, layer, its input and output


class Classifier:
    """The one linear layer whose output is the network's logits, and its input in the latest forward pass.

    A 1 x 1 convolution of a 1 x 1 image counts as linear.
    """

    def __init__(self, model: nn.Module, shape: Sequence[int], n_classes: int, device: torch.device):
        """Find the layer with a probe batch, in eval mode.

        Args:
            model: the network.
            shape: of one input, channels first.
            n_classes: C, the width of the logits.
            device: of the network.

        Raises:
            JobError: no layer's output is the logits; the message says what stands in the way.
        """
        calls: list[_Call] = []
        hooks = [
            module.register_forward_hook(
                lambda layer, inputs, output, name=name: calls.append(
                    (name, layer, inputs[0].detach(), output.detach())
                )
            )
            for name, module in model.named_modules()
            if isinstance(module, _Layer)
        ]
        probe = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0)).to(device)
        was_training = model.training
        try:
            with torch.no_grad():
                logits = model.eval()(probe)
        finally:
            model.train(was_training)
            for hook in hooks:
                hook.remove()
        if not torch.is_tensor(logits) or logits.dim() != 2:
            raise JobError(
                "model: its output is not one (k, C) tensor of logits, so it has no linear classifier; "
                "vectors are known for networks with one head for class labels"
            )
        heads = [call for call in calls if _as_rows(call[3]) is not None and call[3].shape[1] == n_classes]
        found = [call for call in heads if _equal(_apply(call[1], _as_rows(call[2])), logits)]
        if len(found) != 1:
            raise JobError(f"model: {_problem(heads, found)}")
        self.name, layer = found[0][:2]
        self.width = layer.weight.flatten(1).shape[1]
        layer.register_forward_pre_hook(self._observe)

    def _observe(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._input = inputs[0].detach()

    @property
    def input(self) -> torch.Tensor:
        """H of the latest batch, (k, D) float32."""
        return self._input.float().flatten(1)


def _as_rows(values: torch.Tensor) -> torch.Tensor | None:
    """Return (k, D) of a (k, D) tensor or of 1 x 1 images; None of others."""
    if values.dim() == 2:
        return values
    return values.flatten(1) if values.dim() == 4 and values.shape[2:] == (1, 1) else None


def _apply(layer: _Layer, rows: torch.Tensor | None) -> torch.Tensor | None:
    """Return h W^T + b; None where the layer is not linear in its whole input."""
    weight = layer.weight.detach().flatten(1)
    if rows is None or rows.shape[1] != weight.shape[1]:
        return None
    return nn.functional.linear(rows, weight, layer.bias).detach()


def _equal(found: torch.Tensor | None, logits: torch.Tensor) -> bool:
    if found is None or found.shape != logits.shape:
        return False
    return bool((found - logits).abs().max() <= _TOLERANCE * logits.abs().max().clamp(min=1e-30))


def _problem(heads: list[_Call], found: list[_Call]) -> str:
    """Say why there is not one layer whose output is the logits."""
    names = " and ".join(dict.fromkeys(call[0] for call in found or heads))
    if len(found) > 1:
        return f"the logits are computed {len(found)} times ({names}); vectors need one linear classifier"
    if not heads:
        return (
            "no linear layer has as many outputs as there are classes, so there is no linear classifier (a "
            "cosine head is none); choose a network with one"
        )
    if len(heads) > 1:
        return f"the logits come of several heads ({names}); vectors need one linear classifier"
    return (
        f"the output of {names} is not the logits: what follows it, such as a scale, or what it does itself "
        "changes it; vectors need a linear classifier that comes last"
    )
