"""UperNet (Xiao et al. 2018) through segmentation-models-pytorch, with an auxiliary head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..core.torchvision_compat import segmentation_models
from ..errors import JobError
from .auxiliary import WithAuxiliary

_AUXILIARY_WIDTH = 256


class UperNet(nn.Module):
    """Semantic segmentation of images (k, channels, H, W) of any size: logits (k, C, H, W).

    As mmsegmentation has it: dropout before both classifiers, and the auxiliary head (FCN, Long et al. 2015)
    on features of a sixteenth of the size. It takes part where gradients are computed in training mode, so
    that forward-only passes do without it.
    """

    def __init__(
        self,
        n_classes: int,
        channels: int,
        encoder: str = "resnet50",
        width: int = 512,
        auxiliary_weight: float = 0.4,
        dropout: float = 0.1,
        encoder_weights: str | None = None,
    ):
        """Build the network.

        Args:
            n_classes: C, the classes of a pixel.
            channels: of the images.
            encoder: any that segmentation-models-pytorch has.
            width: channels of the decoder.
            auxiliary_weight: of the auxiliary head's loss; 0 for no such head.
            dropout: share of the channels before the classifiers.
            encoder_weights: imagenet begins with weights that are downloaded.
        """
        super().__init__()
        try:
            library = segmentation_models()
        except ModuleNotFoundError as problem:
            raise JobError(
                f"model.name is upernet, which needs segmentation-models-pytorch ({problem}); pip install it"
            ) from None
        network = library.UPerNet(
            encoder, encoder_weights=encoder_weights, decoder_channels=width, in_channels=channels, classes=1
        )
        self.encoder, self.decoder = network.encoder, network.decoder
        self.head = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(width, n_classes, 1))
        self.auxiliary: nn.Module | None = None
        if auxiliary_weight:
            self.auxiliary = nn.Sequential(
                nn.Conv2d(self.encoder.out_channels[-2], _AUXILIARY_WIDTH, 3, padding=1, bias=False),
                nn.BatchNorm2d(_AUXILIARY_WIDTH),
                nn.ReLU(),
                nn.Dropout2d(dropout),
                nn.Conv2d(_AUXILIARY_WIDTH, n_classes, 1),
            )
        self._weight = auxiliary_weight

    def forward(self, images: torch.Tensor) -> torch.Tensor | WithAuxiliary:
        """Return the logits of every pixel, with those of the auxiliary head where they are trained."""
        features = self.encoder(images)
        logits = _scaled(self.head(self.decoder(features)), images)
        if self.auxiliary is None or not (self.training and torch.is_grad_enabled()):
            return logits
        return WithAuxiliary(logits, _scaled(self.auxiliary(features[-2]), images), self._weight)


def _scaled(logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return F.interpolate(logits, images.shape[2:], mode="bilinear")
