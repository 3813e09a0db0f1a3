"""Models by name: the package's own for digits and DeepCAM, or any of timm's or torchvision's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from ..config.job import Model
from ..errors import JobError, nearest
from . import MODELS
from .libraries import LIBRARIES, find_network
from .norms import NORMS, set_momentum


class SmallCnn(nn.Module):
    """Three convolutions for small images.

    GroupNorm is the default: unlike BatchNorm, it makes a sample's loss independent of how many ranks share
    its batch.
    """

    def __init__(self, n_classes: int, channels: int, width: int = 16, norm: str = "group"):
        """Build the network.

        Args:
            n_classes: of the images.
            channels: of the images.
            width: channels of the first convolution.
            norm: ``group``, ``batch`` or ``none``.
        """
        super().__init__()
        self.features = nn.Sequential(
            _block(channels, width, norm),
            _block(width, 2 * width, norm),
            nn.MaxPool2d(2),
            _block(2 * width, 4 * width, norm),
            nn.AdaptiveAvgPool2d(4),  # not 1: digits differ by where their strokes are
            nn.Flatten(),
        )
        self.head = nn.Linear(4 * width * 16, n_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (k, C) of images (k, channels, H, W)."""
        return self.head(self.features(images))


def _block(n_in: int, n_out: int, norm: str) -> nn.Module:
    convolution = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
    return nn.Sequential(convolution, NORMS[norm](n_out), nn.ReLU())


def build_model(
    model: Model,
    n_classes: int,
    shape: Sequence[int],
    seed: int,
    target_shape: Sequence[int] = (),
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Return the model on the device, initialised alike on every rank, after a trial in both its modes.

    Args:
        model: its name and options.
        n_classes: of its logits.
        shape: of one input, channels first.
        seed: for the initialisation.
        target_shape: (H, W) of masks, () of class labels.
        device: where it runs.

    Raises:
        JobError: the name is unknown, or options or input do not fit.
    """
    torch.manual_seed(seed)
    try:
        network = _build(model, n_classes, shape[0]).to(device)
        network.eval()
        with torch.no_grad():
            evaluated = network(torch.zeros(1, *shape, device=device))
        with _trial(network, device):
            trained = network(torch.zeros(2, *shape, device=device))
    except JobError:
        raise
    except (
        Exception
    ) as problem:  # constructors of other libraries raise anything for options that they do not like
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise JobError(
            f"model.name is {model.name} with options {model.options}, which cannot be built for inputs of "
            "shape "
            f"{tuple(shape)} ({reason[:200]}); choose another model or change its options"
        ) from None
    needed, kind = (n_classes, *target_shape), "segmentation" if target_shape else "classification"
    for n, output in ((1, evaluated), (2, trained)):
        if isinstance(output, torch.Tensor) and tuple(output.shape) == (n, *needed):
            continue
        found = (
            f"has shape {tuple(output.shape)}"
            if isinstance(output, torch.Tensor)
            else f"is of type {type(output).__name__}"
        )
        inputs = "one input" if n == 1 else "two inputs in training"
        raise JobError(
            f"model.name is {model.name}, whose output for {inputs} {found}, but {(n, *needed)} is needed, "
            f"logits alone; choose a {kind} model" + (", or switch auxiliary heads off" if n == 2 else "")
        )
    return network.train()


def needs_two_samples(network: nn.Module, shape: Sequence[int], device: torch.device | str) -> bool:
    """Return whether a BatchNorm of the model fails on a batch of one: it has one value per channel."""
    try:
        with _trial(network, device):
            network(torch.zeros(1, *shape, device=device))
    except ValueError as problem:
        return "more than 1 value per channel" in str(problem)
    return False


@contextmanager
def _trial(network: nn.Module, device: torch.device | str) -> Iterator[None]:
    """Try the model in training mode, without gradients; its statistics and all draws are as before."""
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.train()
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if torch.device(device).type == "cuda" else []):
            yield
    finally:
        for name, buffer in network.named_buffers():
            buffer.copy_(before[name])


def check_model_name(name: str) -> None:
    """Raise JobError, with the nearest names, if no model has this name. Builds none, but imports timm."""
    if name in MODELS:
        _ = MODELS[name]
    elif find_network(name) is None:
        names = [*MODELS, *(known for library in LIBRARIES.values() for known in library.names())]
        raise JobError(f"model.name is {name!r}, which is unknown; {nearest(name, names)}")


def _build(model: Model, n_classes: int, channels: int) -> nn.Module:
    check_model_name(model.name)
    if model.name in MODELS:
        network = MODELS[model.name](n_classes, channels, **model.options)
    else:
        found = find_network(model.name)
        assert found is not None
        library, name = found
        network = library.build(name, n_classes, channels, model.options)
    if model.batchnorm_momentum is not None:
        set_momentum(network, model.batchnorm_momentum)
    return network
