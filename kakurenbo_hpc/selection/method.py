"""What every method is: options that a job may set, declarations, and one question a epoch, who trains."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..config.options import Options
from ..core.ledger import Homes, Ledger
from ..core.plan import Epoch, Plan
from ..distributed.comm import Comm

if TYPE_CHECKING:
    from .global_stats import GlobalStats


# What a forward pass can note of a sample beside loss, correctness and confidence; a column of this name is filled with it.
FORWARD_COLUMNS: dict[str, tuple] = {
    "probability": (np.float32, np.nan),  # p_i[y_i], the softmax probability of the target
    "label": (np.int32, -1),  # y_i
    "el2n": (
        np.float32,
        np.nan,
    ),  # ||p_i - onehot(y_i)||_2, also the norm of d loss / d logits of plain cross entropy
    "grad_norm": (
        np.float32,
        np.nan,
    ),  # el2n x ||the last layer's input||_2: the gradient's norm in that layer's weights
}


class Method(Options):
    """A selection method. Its fields are its options; it has no state: what it must remember stands in the ledger.

    needs_losses: it orders samples by what is known of them, so an unseen sample is never hidden.
    may_repeat: a plan may train a sample several times.
    weights_column: the ledger column that it draws by, which weights files hold.
    """

    needs_losses: ClassVar[bool] = False
    may_repeat: ClassVar[bool] = False
    weights_column: ClassVar[str | None] = None

    method: str

    @property
    def columns(self) -> dict[str, tuple]:
        """Further ledger columns that it keeps, name -> (dtype, first value); names in OBSERVED are filled for it."""
        return {}

    @property
    def max_hidden_fraction(self) -> float:
        """The share of the samples that a plan leaves out at most, in expectation where it draws; 1 where nothing is known of it."""
        return 1.0

    def init_columns(self, rows: range, n_total: int, fingerprint: str) -> Mapping[str, np.ndarray]:
        """Return columns that do not begin with their first value: name -> (S,), S the length of rows.

        Called once on every rank when the ledger of a new run is made, not on resume. rows: the ids at home here, of
        n_total. fingerprint: of the data set. Raises DataError, perhaps on one rank only: call it under ``comm.agreed``.
        """
        return {}

    def warnings(self, epochs: int) -> list[str]:
        """Return what a person should know before a run of so many epochs, one sentence each."""
        return []

    def weighs_after(self, epoch: Epoch) -> bool:
        """Whether ``weights_column`` holds new weights for the rest of the run at the end of this epoch."""
        return False

    def needs_scoring_pass(self, epoch: Epoch) -> bool:
        """Whether all samples get a forward pass before this epoch is planned."""
        return False

    def on_scored(self, epoch: Epoch, ledger: Ledger) -> Mapping[str, np.ndarray]:
        """Return the columns that change once the notes of that pass stand in the ledger, before the plan: name -> (S,)."""
        return {}

    @abstractmethod
    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Decide what this epoch does with the rows of this rank's ledger; the same for any split of the rows."""

    def draws_each_step(self, epoch: Epoch) -> bool:
        """Whether this epoch's samples are drawn step by step, each by what the step before has told."""
        return False

    def plan_step(self, epoch: Epoch, step: int, n: int, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Decide which n entries, of all ranks together, one step of such an epoch trains."""
        raise TypeError(f"{self.method} draws whole epochs")

    def on_epoch_end(self, epoch: Epoch, ledger: Ledger) -> Mapping[str, np.ndarray]:
        """Return the columns that change once this epoch's notes stand in the ledger: name -> (S,).

        ``ledger.seen_epoch == epoch.number`` are the rows that were noted.
        """
        return {}


def init_ledger(method: Method, homes: Homes, comm: Comm, fingerprint: str) -> Ledger:
    """Return this rank's ledger before the first epoch: nothing seen, and what the method brings along.

    fingerprint: of the data set. Raises DataError on all ranks alike.
    """
    rows = homes.rows(comm.rank)
    ledger = Ledger.unseen(homes.n, *rows, method.columns)
    return ledger.with_columns(
        comm.run_or_raise_together(lambda: method.init_columns(range(*rows), homes.n, fingerprint))
    )
