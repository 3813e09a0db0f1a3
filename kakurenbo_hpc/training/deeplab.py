"""DeepCAM's segmentation network: DeepLabv3+ (Chen et al. 2018) with an aligned Xception as the MLPerf HPC reference has it."""

from __future__ import annotations

import importlib

import torch
from torch import nn

from ..core.torchvision_compat import timm, torchvision_models
from .norms import replace_batchnorm


class DeepLab(nn.Module):
    """Images (k, channels, H, W) to logits (k, C, H, W); H and W are multiples of 16.

    width: channels of every layer as a share of the paper's, in multiples of 8, at least 16. middle: blocks of the middle flow.
    norm: batch, as in the paper, or group, with which a sample's loss does not depend on who shares its batch.
    Nothing is normalised after global pooling, so that a batch of one image can be trained on.
    """

    def __init__(
        self, n_classes: int, channels: int, width: float = 1.0, middle: int = 16, norm: str = "batch"
    ):
        super().__init__()

        def wide(n: int) -> int:
            # The gradient of a strided 1 x 1 convolution of fewer channels is written past its end (oneDNN's issue 6035).
            return max(16, round(n * width / 8) * 8)

        self.entry = nn.Sequential(
            _conv(channels, wide(32), 3, stride=2),
            _conv(wide(32), wide(64), 3),
            _xception(wide(64), [wide(128)] * 3, stride=2),
        )
        self.encoder = nn.Sequential(
            _xception(wide(128), [wide(256)] * 3, stride=2),
            _xception(wide(256), [wide(728)] * 3, stride=2),
            *[_xception(wide(728), [wide(728)] * 3) for _ in range(middle)],
            _xception(wide(728), [wide(728), wide(1024), wide(1024)]),
            _xception(
                wide(1024),
                [wide(1536), wide(1536), wide(2048)],
                dilation=2,
                no_skip=True,
                start_with_relu=False,
            ),
            _pyramid(wide(2048), wide(256)),
            _double(wide(256)),
            _double(wide(256)),
        )
        self.fine = _conv(wide(128), wide(48), 1)
        self.decoder = nn.Sequential(
            _conv(wide(256) + wide(48), wide(256), 3),
            _conv(wide(256), wide(256), 3),
            nn.Conv2d(wide(256), wide(256), 1),
            _double(wide(256)),
            nn.ConvTranspose2d(wide(256), n_classes, 3, stride=2, padding=1, output_padding=1, bias=False),
        )
        if norm != "batch":
            replace_batchnorm(self, norm)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        # As DeepCAM's files have it: inputs need no copy, and gradients lie as DDP's buckets expect them.
        self.to(memory_format=torch.channels_last)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        quarter = self.entry(
            input
        )  # of the height and the width; the encoder goes down to a sixteenth and back
        return self.decoder(torch.cat([self.encoder(quarter), self.fine(quarter)], dim=1))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def _double(width: int) -> nn.Module:
    """Twice the height and the width."""
    convolution = nn.ConvTranspose2d(width, width, 3, stride=2, padding=1, output_padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())


def _xception(inputs: int, outputs: list[int], **options) -> nn.Module:
    """timm's block of three separable convolutions, with a shortcut."""
    timm()
    block = importlib.import_module("timm.models.xception_aligned").XceptionModule
    return block(inputs, outputs, norm_layer=nn.BatchNorm2d, **options)


def _pyramid(inputs: int, outputs: int) -> nn.Module:
    """torchvision's pyramid of dilated convolutions (ASPP), without BatchNorm after global pooling and without dropout."""
    pyramid = torchvision_models().segmentation.deeplabv3.ASPP(inputs, [6, 12, 18], outputs)
    pyramid.convs[-1][1], pyramid.convs[-1][2] = nn.Conv2d(inputs, outputs, 1), nn.Identity()
    pyramid.project[-1] = nn.Identity()
    return pyramid
