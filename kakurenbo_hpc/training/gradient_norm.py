"""Per-sample gradient norms: exact, or of the last layer's weights alone."""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from .criterion import Criterion


def gradient_norms(
    model: nn.Module, criterion: Criterion, inputs: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Return the 2-norm of each sample's loss gradient in all parameters, (k,) float32.

    All k gradients are in memory at once. The model is called in the mode that it is in; in eval mode no
    sample's gradient depends on another's.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    buffers = {name: b.detach() for name, b in model.named_buffers()}

    def loss(parameters: dict[str, torch.Tensor], sample: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        logits = functional_call(model, (parameters, buffers), (sample[None],))
        return criterion(logits, target[None])[0]

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, inputs, targets)
    return torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0).sqrt()


class LastInput:
    """Observes the input of a model's last linear layer in its latest forward pass."""

    def __init__(self, model: nn.Module):
        layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
        if not layers:
            raise ValueError("the model has no linear layer")
        layers[-1].register_forward_pre_hook(self._observe)

    def _observe(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._input = inputs[0].detach()

    def norms(self) -> torch.Tensor:
        """Return the 2-norm of each sample's input, (k,) float32."""
        return self._input.float().flatten(1).norm(dim=1)
