"""Size of the network and the optimizer in a checkpoint, found without memory for either."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..config.job import Model
from ..config.training_options import Training
from .model import build_model
from .optimizer import build_optimizer


def learner_bytes(
    training: Training, model: Model, n_classes: int, shape: Sequence[int], target_shape: Sequence[int] = ()
) -> int:
    """Return the bytes of the tensors in ``Learner.state_dict`` after a step.

    Network and optimizer are built on the meta device, which not all of them stand.

    Args:
        training: names the optimizer, and whether weights are averaged.
        model: the network's name and options.
        n_classes: of the targets.
        shape: of one input, channels first.
        target_shape: (H, W) of masks, () of class labels.

    Raises:
        JobError: they cannot be built like that.
    """
    network = build_model(model, n_classes, shape, 0, target_shape, "meta")
    optimizer = build_optimizer(training, network, lr=1e-3)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    weights = sum(tensor.nbytes for tensor in network.state_dict().values())
    buffers = [buffer for of_one in optimizer.state.values() for buffer in of_one.values()]
    momenta = sum(buffer.nbytes for buffer in buffers if isinstance(buffer, torch.Tensor))
    return weights * (1 + bool(training.ema)) + momenta
