"""Outputs of the trained network for each sample, in eval mode, that scores and subsets are chosen by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..core.batch import Batch
from ..errors import JobError
from .classifier import Classifier
from .deepfool import perturbations
from .gradient_norm import gradient_norms
from .learner import Learner


class OutputReader:
    """Passes batches forward, in float32, and returns their outputs on the host.

    Outputs are ``probability`` (k, C); ``input`` (k, D), what the linear classifier is applied to; and (k,)
    ``loss``, ``gradient_norm`` of all parameters, and ``deepfool_10`` of ten classes. All are float32,
    and NaN for a sample whose input is not finite.
    """

    def __init__(self, learner: Learner, names: Sequence[str], shape: Sequence[int], device: torch.device):
        """Prepare to read these outputs.

        Raises:
            JobError: the data has masks, or the network has no linear classifier where its input is wanted.
        """
        if learner.has_masks:
            raise JobError(
                "data: targets are masks, but scores are known for class labels; choose another selection"
            )
        self._learner, self._names = learner, names
        self.classifier = (
            Classifier(learner.model, shape, learner.n_classes, device) if "input" in names else None
        )

    @property
    def width(self) -> int:
        """D, the width of the classifier's input; 0 if that is not read."""
        return self.classifier.width if self.classifier else 0

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return each output of a batch."""
        logits, losses = self._learner.predict(batch)
        known = {"loss": losses, "probability": torch.softmax(logits.float(), dim=1)}
        if self.classifier is not None:
            known["input"] = self.classifier.input
        if "gradient_norm" in self._names:
            learner = self._learner
            known["gradient_norm"] = gradient_norms(
                learner.model, learner.criterion, batch.input, batch.target
            )
        for name in self._names:
            if name.startswith("deepfool_"):
                inputs = torch.nan_to_num(batch.input)
                n_classes = int(name.removeprefix("deepfool_"))
                known[name] = perturbations(self._learner.model, inputs, n_classes)
        broken = losses.isnan() & ~torch.isfinite(batch.input).flatten(1).all(dim=1)
        outputs = {}
        for name in self._names:
            values = known[name].float()
            values[broken] = torch.nan
            outputs[name] = values.cpu().numpy()
        return outputs
