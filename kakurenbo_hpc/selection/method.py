"""Selection methods: the interface `Method`, and `StepMethod` for those that draw each step anew."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ..config.job import SelectionOptions
from ..core.batch import MethodState
from ..core.ledger import Homes, Ledger
from ..core.plan import Epoch, Plan
from ..distributed.comm import Comm

if TYPE_CHECKING:
    from typing_extensions import Self

    from .global_stats import GlobalStats

Level = Literal["epoch", "batch", "step"]

# Ledger columns that forward passes fill for a method that declares them.
FORWARD_COLUMNS: dict[str, tuple] = {
    # p_i[y_i], the softmax probability of the target
    "probability": (np.float32, np.nan),
    # p_i[y_i] minus the largest probability of another class
    "margin": (np.float32, np.nan),
    # p_i, of width C: the class probabilities, for ``Method.of_data``
    "probabilities": (np.float32, np.nan),
    # y_i
    "label": (np.int32, -1),
    # ||p_i - onehot(y_i)||_2; also the norm of d loss / d logits of plain cross entropy
    "el2n": (np.float32, np.nan),
    # el2n x ||input of the last layer||_2: the norm of the loss gradient in that layer's weights
    "grad_norm": (np.float32, np.nan),
}


class Method(SelectionOptions):
    """A selection method: decides, each epoch and over all ranks at once, which samples are trained.

    Its fields are its options. The object has no state: what a method remembers stands in columns of the
    ledger (or, at batch level, in a ``MethodState``), so that saving, resuming and testing need nothing of
    it. It knows neither ranks nor PyTorch: it sees the rows of its own rank and asks ``everyone`` about all
    of them. A run calls it like this::

        ledger = unseen rows with `columns`, then `init_columns`
        state = `init_state`
        for epoch in epochs:
            if `needs_scoring_pass`(epoch):
                forward pass over all samples; statistics go home to the ledger
                ledger columns = `update`(epoch, ledger, "scoring")
            plan = `plan`(epoch, ledger, everyone)
            match `selection_level`(epoch):
                "epoch": train what the plan names
                "step":  for each step: train what `plan_step` draws (class StepMethod)
                "batch": for each candidate batch of the plan: forward pass, train what `select` picks
                         (class BatchMethod)
            statistics of the training passes go home to the ledger
            forward pass over plan.refresh; statistics go home to the ledger
            ledger columns = `update`(epoch, ledger, "epoch")
            evaluate; write metrics; write `weights`, where there are any

    Only ``plan`` must be written. Everything else has a default that suits a method that hides samples once
    per epoch.

    Attributes:
        needs_losses: the method orders samples by their losses, so it never hides a sample that was not
            seen yet.
        may_repeat: whether a plan may train a sample several times; in words when, if it rarely does.
        scaling_options: options that scale learning rate or losses; comparisons set them to False for a
            control.
        method: the name by which a job asks for the method.
    """

    needs_losses: ClassVar[bool] = False
    may_repeat: ClassVar[bool | str] = False
    scaling_options: ClassVar[tuple[str, ...]] = ()

    @property
    def columns(self) -> dict[str, tuple]:
        """Its ledger columns: name -> (dtype, first value); those in FORWARD_COLUMNS are filled for it.

        A column of width J, such as a window over J epochs, has the dtype ``np.dtype((np.float32, J))``.
        """
        return {}

    def of_data(self, n_classes: int) -> Self:
        """Return the method for data of so many classes; itself, unless a column is as wide."""
        return self

    @property
    def forward_columns(self) -> dict[str, np.dtype]:
        """Those of its columns that forward passes fill: name -> dtype."""
        return {name: np.dtype(dtype) for name, (dtype, _) in self.columns.items() if name in FORWARD_COLUMNS}

    @property
    def max_hidden_fraction(self) -> float:
        """Largest fraction that a plan hides, in expectation where it is random; 1 where it is unknown."""
        return 1.0

    def init_columns(self, rows: range, n_total: int, fingerprint: str) -> Mapping[str, np.ndarray]:
        """Return the columns that do not begin with their first value, such as scores read from a file.

        Called once per rank when the ledger of a new run is made, not on resume.

        Args:
            rows: ids of this rank's samples.
            n_total: samples of the data set.
            fingerprint: of the data set.

        Returns:
            Name -> (S,) array, S the length of rows.

        Raises:
            DataError: perhaps on one rank only; the caller sees to it that all ranks raise together.
        """
        return {}

    def init_state(self) -> MethodState:
        """Return what a rank keeps beside the ledger, at the start of a run; nothing at epoch level.

        If it has an array ``trained``, (1,) int64, the engine counts there the samples that all ranks have
        trained, and the learning-rate schedule follows this count instead of the epochs.
        """
        return {}

    def weights(self, epoch: Epoch, ledger: Ledger, wanted: bool) -> np.ndarray | None:
        """Return the sampling weights to write to a file after an epoch, (S,) float64; None for no file.

        Args:
            epoch: the epoch just finished.
            ledger: as it is now, after `update`.
            wanted: the job lists the epoch in ``record.weights_at``.
        """
        return None

    def warnings(self, epochs: int) -> list[str]:
        """Return what the user should know before a run of so many epochs, one sentence each."""
        return []

    @property
    def needs_full_gradient(self) -> bool:
        """Whether grad_norm of scoring passes is of all parameters, by a backward pass of each sample."""
        return False

    def selects_subset(self, epoch: Epoch) -> bool:
        """Return whether a subset is chosen by vectors before this epoch is planned (class OnlineSubset)."""
        return False

    def needs_scoring_pass(self, epoch: Epoch) -> bool:
        """Return whether all samples get a forward pass before this epoch is planned."""
        return False

    @abstractmethod
    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Decide what this epoch does with each row; at batch level, which samples are candidates.

        All ranks call it together. The plan must not depend on how the samples are split over ranks.

        Args:
            epoch: its number, the number of all epochs, and its random draws ``epoch.rng``.
            ledger: the rows of this rank.
            everyone: questions to the rows of all ranks.
        """

    def selection_level(self, epoch: Epoch) -> Level:
        """Return how this epoch's samples are chosen: by its plan, by batches, or by steps."""
        return "epoch"

    def update(
        self, epoch: Epoch, ledger: Ledger, after: Literal["scoring", "epoch"]
    ) -> Mapping[str, np.ndarray]:
        """Return the ledger columns that change now that new statistics stand in the ledger, by name.

        Args:
            epoch: rows with ``ledger.seen_epoch == epoch.number`` have statistics of this epoch.
            ledger: the rows of this rank.
            after: what gave the new statistics, the scoring pass before the plan or the epoch itself.
        """
        return {}


class StepMethod(Method):
    """A method that draws the samples of each step, by the ledger after the step before."""

    def selection_level(self, epoch: Epoch) -> Level:
        """Return "step"."""
        return "step"

    @abstractmethod
    def plan_step(self, epoch: Epoch, step: int, n: int, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Decide which n entries, of all ranks together, this step trains.

        The epoch's plan only gives the number of entries of the whole epoch.
        """


def init_ledger(method: Method, homes: Homes, comm: Comm, fingerprint: str) -> Ledger:
    """Return this rank's ledger before the first epoch: unseen samples, and the method's own columns.

    Raises:
        DataError: ``init_columns`` failed on some rank; raised on all ranks alike.
    """
    rows = homes.rows(comm.rank)
    ledger = Ledger.unseen(homes.n, *rows, method.columns)
    return ledger.with_columns(
        comm.run_or_raise_together(lambda: method.init_columns(range(*rows), homes.n, fingerprint))
    )
