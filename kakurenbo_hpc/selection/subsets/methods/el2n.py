"""EL2N: Deep Learning on a Data Diet (Paul et al., NeurIPS 2021), the error vector's norm."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from ..scoring import FromOutputs, residuals


class El2n(FromOutputs):
    """||p - onehot(y)||_2 after 20 epochs, mean over 10 initialisations. Keep the highest."""

    default_epochs: ClassVar[int] = 20
    default_repeats: ClassVar[int] = 10

    @property
    def outputs(self) -> tuple[str, ...]:
        """Class probabilities."""
        return ("probability",)

    def of_outputs(self, outputs: Mapping[str, np.ndarray], label: np.ndarray) -> np.ndarray:
        """Return the norms."""
        return np.linalg.norm(residuals(outputs["probability"].astype(np.float64), label), axis=1)
