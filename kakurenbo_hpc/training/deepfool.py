"""DeepFool: the smallest perturbation of an input that changes the predicted class, by linear steps."""

from __future__ import annotations

import torch
from torch import nn

_MOST_STEPS = 50


def perturbations(model: nn.Module, inputs: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Return |sum of the steps|_2^2 of each input, (k,) float32. The model is in eval mode.

    A step goes to the border with the class k of smallest |f_k - f_k0| / |w_k - w_k0|, k0 the predicted class
    and w input gradients, without overshoot; the steps of an input end when its prediction changes, or after
    50. One backward pass for each class and step. Other inputs of the batch change nothing.

    Source: Moosavi-Dezfooli et al., CVPR 2016.

    Args:
        model: returns logits (k, C).
        inputs: (k, ...).
        n_classes: only so many classes of largest first logits are looked at.
    """
    moved, total = inputs.detach().clone(), torch.zeros_like(inputs)
    with torch.no_grad():
        first = model(moved)
    classes = first.argsort(dim=1, descending=True, stable=True)[:, : min(n_classes, first.shape[1])]
    active = torch.ones(len(inputs), dtype=torch.bool, device=inputs.device)
    for _ in range(_MOST_STEPS):
        step = _step(model, moved, classes) * active.view(-1, *[1] * (inputs.dim() - 1))
        total, moved = total + step, moved + step
        with torch.no_grad():
            active &= model(moved).argmax(dim=1) == classes[:, 0]
        if not active.any():
            break
    return total.flatten(1).square().sum(dim=1)


def _step(model: nn.Module, inputs: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return the step of each input to its nearest linear border, as large as the input."""
    inputs = inputs.detach().requires_grad_()
    logits = model(inputs).gather(1, classes)
    gradients = [
        torch.autograd.grad(logits[:, column].sum(), inputs, retain_graph=True)[0].flatten(1)
        for column in range(classes.shape[1])
    ]
    normal = torch.stack(gradients[1:], dim=1) - gradients[0].unsqueeze(1)  # (k, C - 1, ...)
    gap = (logits[:, 1:] - logits[:, :1]).detach().abs()
    length = normal.norm(dim=2).clamp(min=1e-12)
    nearest = (gap / length).argmin(dim=1, keepdim=True)
    factor = (gap / length.square()).gather(1, nearest)
    chosen = normal.gather(1, nearest.unsqueeze(2).expand(-1, 1, normal.shape[2]))[:, 0]
    return (factor * chosen).view_as(inputs).detach()
