"""Large-scale Dataset Pruning with Dynamic Uncertainty (He et al., CVPR 2024 workshop): Dyn-Unc."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from ....config.options import option
from ....core.ledger import Ledger
from ....core.plan import Epoch
from ...global_stats import GlobalStats
from ...method import FORWARD_COLUMNS
from ..scoring import FromTraining, Scores


class DynUnc(FromTraining):
    """The standard deviation of p_y within J epochs (ddof 1), mean over all windows but the last.

    J: ``window``. Of the E - J + 1 windows the last is left out, as in the paper. Keep the highest.
    p_y is that of the training passes; the authors pay a second forward pass for it.
    """

    default_epochs: ClassVar[int] = 90

    window: Annotated[int, Field(ge=2, le=100)] = option(10, "Epochs J of a window.", "epochs")

    @property
    def fewest_epochs(self) -> int:
        """As many as make one window that counts."""
        return self.window + 1 - self.n_windows(self.window)

    @property
    def columns(self) -> dict[str, tuple]:
        """Labels, p_y of the last J epochs, and sums."""
        ring = {f"probability_{slot}": (np.float32, np.nan) for slot in range(self.window)}
        forward = {name: FORWARD_COLUMNS[name] for name in ("label", "probability")}
        return {**forward, **ring, "windows": (np.float64, 0.0)}

    def n_windows(self, n_epochs: int) -> int:
        """Return how many windows count in a run of so many epochs."""
        return n_epochs - self.window

    def update(
        self, epoch: Epoch, ledger: Ledger, after: Literal["scoring", "epoch"]
    ) -> Mapping[str, np.ndarray]:
        """Put this epoch into the ring, and add the window that ends here."""
        slot, first = f"probability_{epoch.number % self.window}", epoch.number - self.window + 1
        changed = {slot: ledger.extra["probability"]}
        if 0 <= first < self.n_windows(epoch.total):
            ring = [
                {**ledger.extra, **changed}[f"probability_{e % self.window}"]
                for e in range(first, first + self.window)
            ]
            changed["windows"] = ledger.extra["windows"] + self.of_window(np.array(ring, np.float64))
        return changed

    def of_window(self, p: np.ndarray) -> np.ndarray:
        """Return the uncertainty, (S,), of a window (J, S)."""
        return p.std(axis=0, ddof=1)

    def of_training(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Scores:
        """Return the means."""
        return Scores(ledger.extra["windows"] / max(1, self.n_windows(epoch.number)))
