"""Plan: what one epoch does with every sample; and the epoch, which random draws are keyed by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .rng import Stream


@dataclass(frozen=True)
class Epoch:
    """Epoch ``number`` (from 0) of ``total``, in a run with this seed."""

    number: int
    total: int
    seed: int

    @property
    def rng(self) -> Stream:
        """The random draws of this epoch."""
        return Stream(self.seed, self.number)


@dataclass(frozen=True)
class Plan:
    """What this epoch does with the S samples of this rank's ledger.

    Attributes:
        train: (S,) bool or small integers, how often each sample is trained; 0 means hidden.
        refresh: (S,) bool, hidden samples that get a forward pass after training; None for none.
        refresh_mode: mode of the network in that pass, "eval" or "train".
        refresh_augment: whether that pass uses the training augmentation.
        weight: (S,) float32, multiplies the sample's loss; None for 1 everywhere.
        weighs_by_batch: whether the sum of weight x loss over a global batch is divided by the sum of its
            weights, not by the number of its entries. Of plans of whole epochs.
        lr_scale: multiplies the schedule's learning rate for this epoch.
        max_fraction: largest fraction that this epoch's rule allowed to hide.
        n_candidates: samples that could be hidden, over all ranks.
        n_moved_back: candidates that were put back into training, over all ranks.
        n_filled: samples of a subset that were only drawn to fill it up, over all ranks; None where a method
            fills nothing up.
        probability: (S,) float32, how often each sample was expected to be trained when the plan was drawn;
            None where nothing was drawn.
    """

    train: np.ndarray
    refresh: np.ndarray | None = None
    refresh_mode: str = "eval"
    refresh_augment: bool = True
    weight: np.ndarray | None = None
    weighs_by_batch: bool = False
    lr_scale: float = 1.0
    max_fraction: float = 0.0
    n_candidates: int = 0
    n_moved_back: int = 0
    n_filled: int | None = None
    probability: np.ndarray | None = None
