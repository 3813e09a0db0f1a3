"""Networks for images of 32 x 32 pixels, as papers train them on CIFAR and SVHN."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..core.torchvision_compat import torchvision_models


def cifar_resnet(n_classes: int, channels: int, depth: int = 18) -> nn.Module:
    """Return torchvision's ResNet of depth 18, 34, 50, 101 or 152 with a stem for small images.

    One 3 x 3 convolution stands for the 7 x 7 convolution and the max pooling.
    """
    network = torchvision_models().get_model(f"resnet{depth}", num_classes=n_classes)
    network.conv1 = _conv3x3(channels, 64)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network


def cifar_densenet(n_classes: int, channels: int) -> nn.Module:
    """Return DenseNet-121 with a growth rate of 12 and one 3 x 3 convolution as its stem (pytorch-cifar)."""
    network = torchvision_models().DenseNet(12, (6, 12, 24, 16), 24, num_classes=n_classes)
    network.features.conv0 = _conv3x3(channels, 24)
    for name in ("norm0", "relu0", "pool0"):
        setattr(network.features, name, nn.Identity())
    return network


def cifar_mobilenet_v2(n_classes: int, channels: int) -> nn.Module:
    """Return MobileNetV2 with a stride of 1 in its first two stages, and without dropout (pytorch-cifar)."""
    stages = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2)]
    network = torchvision_models().MobileNetV2(
        n_classes, inverted_residual_setting=[*stages, (6, 320, 1, 1)], dropout=0.0
    )
    network.features[0][0] = _conv3x3(channels, 32)
    return network


class LeNet(nn.Sequential):
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling, as pytorch-cifar10 of soapisnotfat has it."""

    def __init__(self, n_classes: int, channels: int):
        super().__init__(
            *(nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
            nn.AdaptiveAvgPool2d(5),  # changes nothing at 32 pixels
            *(nn.Flatten(), nn.Linear(16 * 5 * 5, 120), nn.ReLU()),
            *(nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, n_classes)),
        )


class WideResNet(nn.Module):
    """Wide ResNet (Zagoruyko and Komodakis 2016), WRN-28-10 by default.

    Initialised as by the authors: convolutions from a normal distribution by fan-out (He et al. 2015).
    """

    def __init__(self, n_classes: int, channels: int, depth: int = 28, width: int = 10, dropout: float = 0.0):
        """Build the network.

        Args:
            n_classes: of the images.
            channels: of the images.
            depth: layers; 6 n + 4.
            width: factor on the channels of a ResNet for CIFAR.
            dropout: share dropped between the two convolutions of a block.
        """
        super().__init__()
        if (depth - 4) % 6:
            raise ValueError(f"depth is {depth}, but must be 6 n + 4, such as 28")
        widths = [16, 16 * width, 32 * width, 64 * width]
        blocks = [
            _WideBlock(n_out if i else n_in, n_out, 1 if i or stage == 0 else 2, dropout)
            for stage, (n_in, n_out) in enumerate(zip(widths, widths[1:], strict=False))
            for i in range((depth - 4) // 6)
        ]
        self.features = nn.Sequential(_conv3x3(channels, 16), *blocks, nn.BatchNorm2d(widths[-1]), nn.ReLU())
        self.head = nn.Linear(widths[-1], n_classes)
        _init_convolutions(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (k, C) of images (k, channels, H, W)."""
        return self.head(self.features(images).mean((2, 3)))


class _WideBlock(nn.Module):
    """Pre-activation block of two convolutions; the shortcut begins after the first activation."""

    def __init__(self, n_in: int, n_out: int, stride: int, dropout: float):
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(n_in), nn.ReLU())
        self.residual = nn.Sequential(
            _conv3x3(n_in, n_out, stride),
            *(nn.BatchNorm2d(n_out), nn.ReLU(), nn.Dropout(dropout)),
            _conv3x3(n_out, n_out),
        )
        self.shortcut = None if n_in == n_out else nn.Conv2d(n_in, n_out, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = self.activation(x)
        return self.residual(active) + (x if self.shortcut is None else self.shortcut(active))


class PyramidNet(nn.Module):
    """PyramidNet (Han, Kim and Kim 2017), additive, for small images.

    Channels grow by an equal amount in each block, by ``alpha`` in all. Depth 110 is of basic blocks, depth
    164 of bottlenecks.
    """

    def __init__(
        self, n_classes: int, channels: int, depth: int = 110, alpha: int = 48, bottleneck: bool = False
    ):
        """Build the network.

        Args:
            n_classes: of the images.
            channels: of the images.
            depth: layers; 6 n + 2, or 9 n + 2 with bottlenecks.
            alpha: channels that all blocks add to the first 16.
            bottleneck: blocks of three convolutions, whose output is four times as wide.
        """
        super().__init__()
        layers = 9 if bottleneck else 6
        if (depth - 2) % layers:
            raise ValueError(f"depth is {depth}, but must be {layers} n + 2, such as {18 * layers + 2}")
        n = (depth - 2) // layers
        block, factor = (_PyramidBottleneck, 4) if bottleneck else (_PyramidBlock, 1)
        widths = [round(16 + alpha * i / (3 * n)) for i in range(3 * n + 1)]
        blocks = [
            block(widths[i] * (factor if i else 1), widths[i + 1], 2 if i in (n, 2 * n) else 1)
            for i in range(3 * n)
        ]
        n_out = widths[-1] * factor
        self.features = nn.Sequential(
            *(_conv3x3(channels, 16), nn.BatchNorm2d(16)), *blocks, *(nn.BatchNorm2d(n_out), nn.ReLU())
        )
        self.head = nn.Linear(n_out, n_classes)
        _init_convolutions(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (k, C) of images (k, channels, H, W)."""
        return self.head(self.features(images).mean((2, 3)))


class _PyramidBlock(nn.Module):
    """Pre-activation block without ReLU before it; its shortcut has no weights: zeros are new channels."""

    def __init__(self, n_in: int, width: int, stride: int):
        super().__init__()
        self.residual, self._stride = self._layers(n_in, width, stride), stride

    def _layers(self, n_in: int, width: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            *(nn.BatchNorm2d(n_in), _conv3x3(n_in, width, stride)),
            *(nn.BatchNorm2d(width), nn.ReLU(), _conv3x3(width, width), nn.BatchNorm2d(width)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.residual(x)
        shortcut = F.avg_pool2d(x, 2, ceil_mode=True) if self._stride == 2 else x
        return residual + F.pad(shortcut, (0, 0, 0, 0, 0, residual.shape[1] - x.shape[1]))


class _PyramidBottleneck(_PyramidBlock):
    """The same of three convolutions."""

    def _layers(self, n_in: int, width: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            *(nn.BatchNorm2d(n_in), nn.Conv2d(n_in, width, 1, bias=False)),
            *(nn.BatchNorm2d(width), nn.ReLU(), _conv3x3(width, width, stride)),
            *(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 4 * width, 1, bias=False)),
            nn.BatchNorm2d(4 * width),
        )


def _conv3x3(n_in: int, n_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)


def _init_convolutions(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
