"""Predicted losses: log loss fitted over a sample's last epochs, for methods that order samples by loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np

from ..config.options import option
from ..core.ledger import Ledger
from ..core.plan import Epoch
from .float_keys import CHUNK
from .method import Method

WINDOW = 4  # losses of a sample that the line is fitted to
_SMALLEST = 2.0**-24  # losses are clamped here, of which logarithms are taken: half of float32's step at 1


class OrderedByLoss(Method):
    """A method that orders samples by their last losses, or by what they predict for the epoch."""

    loss: Literal["last", "predicted"] = option(
        "last",
        "Losses to select by: of the last forward pass, or predicted for the epoch from the last four, "
        "without a forward pass.",
    )

    @property
    def columns(self) -> dict[str, tuple]:
        """The last losses and their epochs, the latest last, where losses are predicted."""
        if self.loss == "last":
            return {}
        return {
            "recent_loss": (np.dtype((np.float32, WINDOW)), np.nan),
            "recent_epoch": (np.dtype((np.int32, WINDOW)), -1),
        }

    def with_losses(self, epoch: Epoch, ledger: Ledger) -> Ledger:
        """Return the ledger with the losses to select by in this epoch.

        A loss that is not finite, or of a sample that was never seen, is not predicted.
        """
        if self.loss == "last":
            return ledger
        predicted = predict_losses(ledger.extra["recent_loss"], ledger.extra["recent_epoch"], epoch.number)
        known = np.isfinite(ledger.loss) & np.isfinite(predicted)
        return dataclasses.replace(ledger, loss=np.where(known, predicted, ledger.loss))

    def update(
        self, epoch: Epoch, ledger: Ledger, after: Literal["scoring", "epoch"]
    ) -> Mapping[str, np.ndarray]:
        """Move the window on by this epoch's finite losses."""
        if self.loss == "last":
            return {}
        losses, epochs = ledger.extra["recent_loss"], ledger.extra["recent_epoch"]
        new = (ledger.seen_epoch == epoch.number) & np.isfinite(ledger.loss)
        return {
            "recent_loss": _push(losses, ledger.loss, new),
            "recent_epoch": _push(epochs, ledger.seen_epoch, new),
        }


def _push(window: np.ndarray, value: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return windows, (S, W), with the value at the end and the first one gone, where it is new."""
    moved = np.concatenate([window[:, 1:], value[:, None]], axis=1)
    return np.where(new[:, None], moved, window)


def predict_losses(losses: np.ndarray, epochs: np.ndarray, epoch: int) -> np.ndarray:
    """Return the losses that samples are expected to have in an epoch, (S,) float32; NaN where none is known.

    The least-squares line of log loss over the epoch, within the range of its losses. Losses below 2**-24
    count as that.

    Args:
        losses: (S, W) float32.
        epochs: (S, W) int, of each loss, different ones; -1 for none.
        epoch: for which losses are predicted.
    """
    predicted = np.empty(len(losses), np.float32)
    for start in range(0, len(losses), CHUNK):
        part = slice(start, start + CHUNK)
        # Along rows, which is several times as fast.
        predicted[part] = _predict(losses[part].T.copy(), epochs[part].T.copy(), epoch)
    return predicted


def _predict(losses: np.ndarray, epochs: np.ndarray, epoch: int) -> np.ndarray:
    """Return the predictions, (S,) float64, from (W, S) losses and their epochs."""
    known = epochs >= 0
    n = np.maximum(known.sum(axis=0), 1)
    time = np.where(known, epochs - float(epoch), 0.0)
    log = np.where(known, np.log(np.maximum(losses, _SMALLEST, dtype=np.float64)), 0.0)
    mean_time, mean_log = time.sum(axis=0) / n, log.sum(axis=0) / n
    time = np.where(known, time - mean_time, 0.0)
    spread = np.square(time).sum(axis=0)
    slope = np.divide((time * log).sum(axis=0), spread, out=np.zeros_like(spread), where=spread > 0)
    with np.errstate(over="ignore"):
        line = np.exp(mean_log - slope * mean_time)
    low = np.where(known, losses, np.inf).min(axis=0)
    high = np.where(known, losses, -np.inf).max(axis=0)
    return np.where(known.any(axis=0), np.clip(line, low, high), np.nan)
