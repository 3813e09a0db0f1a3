"""Margin of the two most probable classes (Scheffer et al., IDA 2001; as a coreset: Coleman et al. 2020)."""

from collections.abc import Mapping

import numpy as np

from ..scoring import FromOutputs


class Margin(FromOutputs):
    """Minus the difference of the two largest probabilities. Keep the highest: the smallest margins."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Class probabilities."""
        return ("probability",)

    def of_outputs(self, outputs: Mapping[str, np.ndarray], label: np.ndarray) -> np.ndarray:
        """Return p_(2) - p_(1)."""
        p = np.sort(outputs["probability"].astype(np.float64), axis=1)
        return p[:, -2] - p[:, -1]
