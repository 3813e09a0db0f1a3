"""Adversarial Active Learning for Deep Networks: a Margin Based Approach (Ducoffe, Precioso 2018): DFAL."""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import Field

from ....config.options import option
from ..scoring import FromOutputs


class DeepFool(FromOutputs):
    """Minus the squared size of DeepFool's perturbation. Keep the highest: those nearest to a border.

    A perturbation takes up to 50 steps of one backward pass for each class, of which only the most probable
    are looked at; the file counts one step.
    """

    classes: Annotated[int, Field(ge=2, le=1000)] = option(10, "Most probable classes that are looked at.")

    @property
    def backward(self) -> int:
        """One for each class that the step looks at."""
        return self.classes

    @property
    def outputs(self) -> tuple[str, ...]:
        """The perturbation's squared size."""
        return (f"deepfool_{self.classes}",)

    def of_outputs(self, outputs: Mapping[str, np.ndarray], label: np.ndarray) -> np.ndarray:
        """Return the negative sizes."""
        return -outputs[f"deepfool_{self.classes}"].astype(np.float64)
