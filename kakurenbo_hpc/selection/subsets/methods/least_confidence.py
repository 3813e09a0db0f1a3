"""Least confidence (Lewis and Gale, SIGIR 1994; as a coreset: Coleman et al., ICLR 2020)."""

from collections.abc import Mapping

import numpy as np

from ..scoring import FromOutputs


class LeastConfidence(FromOutputs):
    """1 - max p. Keep the highest."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Class probabilities."""
        return ("probability",)

    def of_outputs(self, outputs: Mapping[str, np.ndarray], label: np.ndarray) -> np.ndarray:
        """Return the sum of the other probabilities, since 1 - max p rounds to 0."""
        p = outputs["probability"].astype(np.float64)
        others = p.copy()
        others[np.arange(len(p)), p.argmax(axis=1)] = 0
        return np.where(np.isnan(p).any(axis=1), np.nan, others.sum(axis=1))
