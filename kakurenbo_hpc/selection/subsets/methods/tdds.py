"""Spanning Training Progress: Temporal Dual-Depth Scoring (Zhang et al., CVPR 2024): TDDS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, PrivateAttr

from ....config.options import Positive, option
from ....core.ledger import Ledger
from ....core.plan import Epoch
from ....errors import JobError
from ...float_keys import CHUNK
from ...global_stats import GlobalStats
from ...method import FORWARD_COLUMNS
from ..scoring import FromTraining, Scores

if TYPE_CHECKING:
    from typing_extensions import Self

_SMALLEST = 1e-8  # added to probabilities of which logarithms are taken


class Tdds(FromTraining):
    """How much the changes of a sample's outputs vary within J epochs, late windows weighing most.

    With p_t the class probabilities of epoch t, KD_t = sum over classes of |p_t+1 (log p_t+1 - log p_t)|. In
    the window of J epochs from k on, v_k is the L2 norm of its J - 1 KDs minus their mean, and the score is
    sum_k beta (1 - beta)^(T-J-k) v_k over all windows of the T epochs. J: ``window``. Keep the highest.

    p_t is that of the training passes. A rank holds two of them for each of its samples; a sample whose
    outputs are not finite in some epoch has no score.
    """

    default_epochs: ClassVar[int] = 30
    _n_classes: int = PrivateAttr(1)

    window: Annotated[int, Field(ge=3, le=1000)] = option(10, "Epochs J of a window.", "epochs")
    beta: Annotated[float, Field(gt=0, le=1)] = option(0.9, "Weight beta of the latest window.")
    memory_limit: Positive = option(8.0, "Most memory of a rank for the class probabilities.", "GiB")

    def of_data(self, n_classes: int) -> Self:
        """Return the method with columns as wide as there are classes."""
        method = self.model_copy()
        method._n_classes = n_classes
        return method

    @property
    def fewest_epochs(self) -> int:
        """As many as make one window."""
        return self.window

    @property
    def columns(self) -> dict[str, tuple]:
        """Labels, p of this epoch and of the last, the last J - 1 KDs, the latest last, and the score."""
        of_classes = np.dtype((np.float32, (self._n_classes,)))
        changes = np.dtype((np.float64, (self.window - 1,)))
        return {
            "label": FORWARD_COLUMNS["label"],
            "probabilities": (of_classes, np.nan),
            "last_probabilities": (of_classes, np.nan),
            "changes": (changes, np.nan),
            "windows": (np.float64, 0.0),
        }

    def init_columns(self, rows: range, n_total: int, fingerprint: str) -> Mapping[str, np.ndarray]:
        """Refuse more memory than ``memory_limit``."""
        needed = len(rows) * (2 * 4 * self._n_classes + 8 * self.window) / 2**30
        if needed > self.memory_limit:
            raise JobError(
                f"score tdds: outputs of {len(rows)} samples of {self._n_classes} classes take "
                f"{needed:.3g} GiB of a rank, but memory_limit is {self.memory_limit:g}; take more ranks, "
                "or raise it"
            )
        return {}

    def update(
        self, epoch: Epoch, ledger: Ledger, after: Literal["scoring", "epoch"]
    ) -> Mapping[str, np.ndarray]:
        """Add the change from the last epoch to this one, and the window that ends here."""
        now, last = ledger.extra["probabilities"], ledger.extra["last_probabilities"]
        changes = np.roll(ledger.extra["changes"], -1, axis=1)
        for start in range(0, len(ledger), CHUNK):
            part = slice(start, start + CHUNK)
            changes[part, -1] = divergence(now[part].astype(np.float64), last[part].astype(np.float64))
        changed = {"last_probabilities": now, "changes": changes}
        if epoch.number >= self.window - 1:
            v = np.linalg.norm(changes - changes.mean(axis=1, keepdims=True), axis=1)
            changed["windows"] = (1 - self.beta) * ledger.extra["windows"] + self.beta * v
        return changed

    def of_training(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Scores:
        """Return the sums."""
        return Scores(ledger.extra["windows"])


def divergence(now: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return KD of two epochs' class probabilities, (k, C) each: (k,) float64."""
    return np.abs(now * (np.log(now + _SMALLEST) - np.log(last + _SMALLEST))).sum(axis=1)
