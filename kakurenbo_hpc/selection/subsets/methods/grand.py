"""GraNd: Deep Learning on a Data Diet (Paul et al., NeurIPS 2021), the norm of a sample's loss gradient."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from ....config.options import option
from ..scoring import FromOutputs, residuals


class Grand(FromOutputs):
    """The gradient's norm in all parameters, or in the classifier's, mean over 10 initialisations.

    Keep the highest. The classifier's gradient is r [h; 1]^T, so its norm is |r| sqrt(|h|^2 + 1): the bias
    counts, as in DeepCore.
    """

    default_epochs: ClassVar[int] = 0
    default_repeats: ClassVar[int] = 10
    block: ClassVar[int] = 32

    last_layer: bool = option(
        False, "The gradient of the classifier alone, weights and bias, for large networks."
    )

    @property
    def outputs(self) -> tuple[str, ...]:
        """The norm, or what it follows from."""
        return ("probability", "input") if self.last_layer else ("gradient_norm",)

    def of_outputs(self, outputs: Mapping[str, np.ndarray], label: np.ndarray) -> np.ndarray:
        """Return the norms."""
        if not self.last_layer:
            return outputs["gradient_norm"].astype(np.float64)
        h = outputs["input"].astype(np.float64)
        r = residuals(outputs["probability"].astype(np.float64), label)
        return np.linalg.norm(r, axis=1) * np.sqrt(np.square(h).sum(axis=1) + 1)
