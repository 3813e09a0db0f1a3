"""Progressive Data Dropout (NeurIPS 2025): DBPD, SMRD and SRD."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ...config.options import Probability, option
from ...core.batch import Candidates, MethodState
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..batch_level import BatchMethod, Choice, SelectionPass
from ..global_stats import GlobalStats
from ..method import FORWARD_COLUMNS, Level
from ..sampling import train_all


class Pdd(BatchMethod):
    """Drops samples from each batch, and trains the rest of it in one step; the last epochs drop nothing.

    - dbpd, difficulty-based: trains what has a probability of the target below tau (tau 0: what is predicted
      wrongly), after a forward pass over the batch.
    - smrd, scheduled-match random: trains as many of the batch, drawn at random; so it needs the same pass.
    - srd, scheduled random: trains floor(gamma^e b) of the b samples of each batch in epoch e, at random.

    tau: ``threshold``. From epoch ``revision_from`` on, everything is trained.

    Our choices where paper and code are silent: counts and draws are over the whole batch of all ranks; a
    batch of which nothing is left makes no step; a probability that is not a number is low; the selection
    pass is in eval mode, since the authors' train mode moves BatchNorm's statistics.
    """

    variant: Literal["dbpd", "smrd", "srd"] = option(
        "dbpd", "What is trained: the difficult, as many at random, or a share that falls by epoch at random."
    )
    threshold: Probability = option(
        0.3,
        "Probability tau of the target from which a sample is dropped; 0 drops all predicted rightly.",
    )
    gamma: Annotated[float, Field(gt=0, le=1)] = option(
        0.99, "Factor of the share that srd trains, from epoch to epoch; the authors have 0.95 with noise."
    )
    revision_from: Annotated[int, Field(ge=0)] | None = option(
        None, "Epoch from which everything is trained; the last one if not given.", "epochs"
    )
    selection_mode: Literal["eval", "train"] = option("eval", "Mode of the network in the selection pass.")

    @property
    def columns(self) -> dict[str, tuple]:
        """The probability of the target, where it decides."""
        decides = self.variant != "srd" and self.threshold > 0
        return {"probability": FORWARD_COLUMNS["probability"]} if decides else {}

    def selection_level(self, epoch: Epoch) -> Level:
        """Return "batch" before the revision."""
        revision = epoch.total - 1 if self.revision_from is None else self.revision_from
        return "batch" if epoch.number < revision else "epoch"

    def selection_pass(self, global_batch: int) -> SelectionPass:
        """Return a pass over the training batch, whose rest makes one step."""
        return SelectionPass(
            global_batch, mode=self.selection_mode, forward=self.variant != "srd", queues=False
        )

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Make all samples candidates, or train them."""
        return train_all(ledger)

    def select(
        self, epoch: Epoch, candidates: Candidates, state: MethodState, everyone: GlobalStats
    ) -> tuple[Choice, MethodState]:
        """Choose what is trained of one batch."""
        if self.variant == "dbpd":
            chosen = self.difficult(candidates)
        elif self.variant == "smrd":
            (n,) = everyone.count(self.difficult(candidates))
            chosen = self.draw(n, epoch, candidates, everyone)
        else:
            (n,) = everyone.count(np.ones(len(candidates.id), bool))
            chosen = self.draw(int(self.gamma**epoch.number * n), epoch, candidates, everyone)
        rows = np.flatnonzero(chosen)
        return Choice(rows, np.ones(len(rows), np.float32)), state

    def difficult(self, candidates: Candidates) -> np.ndarray:
        """Return (k,) bool: the candidates that dbpd trains."""
        if self.threshold == 0:
            return ~candidates.extra["correct"]
        return ~(candidates.extra["probability"] >= self.threshold)

    def draw(self, n: int, epoch: Epoch, candidates: Candidates, everyone: GlobalStats) -> np.ndarray:
        """Mark n candidates of all ranks at random, (k,) bool."""
        draw = epoch.rng.uniform(candidates.id, "pdd", candidates.copy).astype(np.float32)
        return everyone.first(draw, n, candidates.id)
