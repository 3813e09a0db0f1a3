"""DeepLabv3+ (Chen et al. 2018) on an aligned Xception, as in the MLPerf HPC reference of DeepCAM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .norms import replace_batchnorm


class DeepLab(nn.Module):
    """Semantic segmentation: images (k, channels, H, W) to logits (k, C, H, W); H and W are multiples of 16.

    Nothing is normalised after global pooling, so that a batch of one image can be trained on.
    """

    def __init__(
        self, n_classes: int, channels: int, width: float = 1.0, middle: int = 16, norm: str = "batch"
    ):
        """Build the network.

        Args:
            n_classes: C, the classes of a pixel.
            channels: of the images.
            width: channels of every layer as a fraction of the paper's, in multiples of 8, at least 16.
            middle: blocks of the middle flow.
            norm: ``batch``, as in the paper, or ``group``, with which a sample's loss does not depend on its
                batch.
        """
        super().__init__()

        def scaled(n: int) -> int:
            # The gradient of a strided 1 x 1 convolution of fewer channels is written past its end (oneDNN
            # issue 6035).
            return max(16, round(n * width / 8) * 8)

        self.entry = nn.Sequential(
            _conv(channels, scaled(32), 3, stride=2),
            _conv(scaled(32), scaled(64), 3),
            _XceptionBlock(scaled(64), [scaled(128)] * 3, stride=2),
        )
        self.encoder = nn.Sequential(
            _XceptionBlock(scaled(128), [scaled(256)] * 3, stride=2),
            _XceptionBlock(scaled(256), [scaled(728)] * 3, stride=2),
            *[_XceptionBlock(scaled(728), [scaled(728)] * 3) for _ in range(middle)],
            _XceptionBlock(scaled(728), [scaled(728), scaled(1024), scaled(1024)]),
            _ExitBlock(scaled(1024), [scaled(1536), scaled(1536), scaled(2048)]),
            _Pyramid(scaled(2048), scaled(256)),
            _upsample(scaled(256)),
            _upsample(scaled(256)),
        )
        self.fine = _conv(scaled(128), scaled(48), 1)
        self.decoder = nn.Sequential(
            _conv(scaled(256) + scaled(48), scaled(256), 3),
            _conv(scaled(256), scaled(256), 3),
            nn.Conv2d(scaled(256), scaled(256), 1),
            _upsample(scaled(256)),
            nn.ConvTranspose2d(scaled(256), n_classes, 3, stride=2, padding=1, output_padding=1, bias=False),
        )
        if norm != "batch":
            replace_batchnorm(self, norm)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        # As DeepCAM's files have it: inputs need no copy, and gradients lie as DDP's buckets expect them.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of every pixel, (k, C, H, W)."""
        quarter = self.entry(images)  # of H and W; the encoder goes down to a sixteenth and back
        return self.decoder(torch.cat([self.encoder(quarter), self.fine(quarter)], dim=1))


def _conv(n_in: int, n_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(n_out), nn.ReLU())


def _upsample(width: int) -> nn.Sequential:
    """Return a layer that doubles height and width."""
    convolution = nn.ConvTranspose2d(width, width, 3, stride=2, padding=1, output_padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())


# The two blocks are timm's, and the pyramid is torchvision's, down to the names of their parameters and the
# order in which these are drawn. They are written out here since the import of either library takes seconds.


class _XceptionBlock(nn.Module):
    """Three separable convolutions, each after a ReLU, with a shortcut.

    Source: timm's ``XceptionModule``.
    """

    def __init__(self, n_in: int, n_out: Sequence[int], stride: int = 1):
        super().__init__()
        self.shortcut: nn.Module | None = None
        if n_in != n_out[-1] or stride != 1:
            self.shortcut = nn.Sequential()
            self.shortcut.add_module("conv", nn.Conv2d(n_in, n_out[-1], 1, stride, bias=False))
            self.shortcut.add_module("bn", nn.BatchNorm2d(n_out[-1]))
        self.stack = nn.Sequential()
        for number, (before, after) in enumerate(zip([n_in, *n_out], n_out, strict=False), start=1):
            # The shortcut still needs the first input.
            self.stack.add_module(f"act{number}", nn.ReLU(inplace=number > 1))
            last = number == len(n_out)
            self.stack.add_module(f"conv{number}", _separable(before, after, stride if last else 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result = self.stack(images)
        return result + (images if self.shortcut is None else self.shortcut(images))


class _ExitBlock(nn.Module):
    """Three dilated separable convolutions with a ReLU after each of their parts, without a shortcut.

    Source: timm's ``XceptionModule`` with ``start_with_relu=False, no_skip=True, dilation=2``.
    """

    def __init__(self, n_in: int, n_out: Sequence[int]):
        super().__init__()
        self.stack = nn.Sequential()
        for number, (before, after) in enumerate(zip([n_in, *n_out], n_out, strict=False), start=1):
            convolution = _separable(before, after, dilation=2, activation=True)
            self.stack.add_module(f"conv{number}", convolution)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.stack(images)


def _separable(
    n_in: int, n_out: int, stride: int = 1, dilation: int = 1, activation: bool = False
) -> nn.Sequential:
    """Return a convolution of each channel by itself, then one across channels."""
    layers = nn.Sequential()
    depthwise = nn.Conv2d(n_in, n_in, 3, stride, dilation, dilation, groups=n_in, bias=False)
    layers.add_module("conv_dw", depthwise)
    layers.add_module("bn_dw", nn.BatchNorm2d(n_in))
    layers.add_module("act_dw", nn.ReLU(inplace=True) if activation else nn.Identity())
    layers.add_module("conv_pw", nn.Conv2d(n_in, n_out, 1, bias=False))
    layers.add_module("bn_pw", nn.BatchNorm2d(n_out))
    layers.add_module("act_pw", nn.ReLU(inplace=True) if activation else nn.Identity())
    return layers


class _Pyramid(nn.Module):
    """Dilated convolutions side by side (ASPP), without BatchNorm after global pooling and without dropout.

    Source: torchvision's ``ASPP``.
    """

    def __init__(self, n_in: int, n_out: int, dilations: Sequence[int] = (6, 12, 18)):
        super().__init__()
        branches = [nn.Conv2d(n_in, n_out, 1, bias=False)]
        branches += [nn.Conv2d(n_in, n_out, 3, padding=d, dilation=d, bias=False) for d in dilations]
        normed = [nn.Sequential(branch, nn.BatchNorm2d(n_out), nn.ReLU()) for branch in branches]
        # torchvision draws this layer too, though ours replaces it: parameters of a seed stay what they were.
        nn.Conv2d(n_in, n_out, 1, bias=False)
        project = _conv((len(normed) + 1) * n_out, n_out, 1)
        pooling = _Pooling(nn.AdaptiveAvgPool2d(1), nn.Conv2d(n_in, n_out, 1), nn.Identity(), nn.ReLU())
        self.convs = nn.ModuleList([*normed, pooling])
        self.project = project

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.project(torch.cat([branch(images) for branch in self.convs], dim=1))


class _Pooling(nn.Sequential):
    """The mean over each image, brought back to its height and width."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.interpolate(super().forward(images), images.shape[-2:], mode="bilinear", align_corners=False)
