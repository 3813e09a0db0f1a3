"""Entropy of the predicted classes (Shannon 1948; as a coreset: Coleman et al., ICLR 2020)."""

from collections.abc import Mapping

import numpy as np

from ..scoring import FromOutputs


class Entropy(FromOutputs):
    """-sum p log p, with 0 log 0 = 0. Keep the highest."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Class probabilities."""
        return ("probability",)

    def of_outputs(self, outputs: Mapping[str, np.ndarray], label: np.ndarray) -> np.ndarray:
        """Return the entropies, in nats."""
        p = outputs["probability"].astype(np.float64)
        return -(p * np.log(np.where(p > 0, p, 1))).sum(axis=1)
