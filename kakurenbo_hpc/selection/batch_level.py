"""What batch-level methods share: candidate batches, a choice after a forward pass, and what each rank keeps in mind."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..core.batch import Candidates, MethodState
from ..core.plan import Epoch
from .global_stats import GlobalStats
from .method import Method


@dataclass(frozen=True)
class Choice:
    """Which candidates to train: rows (m,) int64 of a candidate batch, repeats allowed, and their (m,) float32 weights."""

    rows: np.ndarray
    weight: np.ndarray


class BatchMethod(Method):
    """A method with a second verb: ``thin`` picks from each candidate batch of an epoch after a forward pass.

    The same result at the same number of ranks; all ranks thin together, each its own part of the candidates.
    """

    batch_level: ClassVar[bool] = True

    def init_state(self) -> MethodState:
        """Return what a rank keeps in mind at the start of a run. trained: samples trained so far, by all ranks."""
        return {"trained": np.zeros(1, np.int64)}

    def thins(self, epoch: Epoch) -> bool:
        """Whether this epoch's plan names candidates; otherwise it names what is trained, as at epoch level."""
        return True

    def looks(self, state: MethodState) -> bool:
        """Whether the next candidate batch gets a forward pass and a choice; otherwise all of it is trained. The same on all ranks."""
        return True

    @abstractmethod
    def select(
        self, epoch: Epoch, candidates: Candidates, state: MethodState, everyone: GlobalStats
    ) -> tuple[Choice, MethodState]:
        """Choose from one candidate batch."""

    def learned(self, batch: Candidates, state: MethodState, everyone: GlobalStats) -> MethodState:
        """Take note of a training step that followed no choice."""
        return state

    def candidates(self, global_batch: int) -> int:
        """Return the size of a global candidate batch."""
        return global_batch

    def trained(self, epoch: Epoch, losses: np.ndarray, state: MethodState) -> MethodState:
        """Take note of an epoch without candidates: (k,) float32 losses of this rank's training passes, in order."""
        return state

    @property
    def clocked_by_trained(self) -> bool:
        """Whether the learning-rate schedule follows samples trained instead of candidates."""
        return False

    @property
    def look_precision(self) -> str:
        """The precision of the forward pass over candidates, or "same" as in training."""
        return "same"

    @property
    def keeps_graph(self) -> bool:
        """Whether that pass runs in train mode and is not repeated for the chosen while the weights are the same."""
        return False
