"""RHO-LOSS: Prioritized Training on Points that are Learnable ... (Mindermann et al., ICML 2022)."""

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator

from ...config.options import option
from ...core.batch import Candidates, MethodState
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..batch_level import BatchMethod, Choice, SelectionPass
from ..global_stats import GlobalStats
from ..score_file import Paths, read_scores


class RhoLoss(BatchMethod):
    """Of each candidate batch trains the share of largest reducible loss: the loss minus the irreducible one.

    The irreducible loss of a sample is its loss in a network that was trained on a hold-out alone, read from
    the file that `kakurenbo score irreducible JOB --hold-out hash:.5` writes. Only samples with a score are
    candidates: the hold-out is not trained, so compare with a run on the same half. Of b candidates
    floor(share x b) are trained, at least one; the paper has 32 of 320.

    Our choices where paper and code are silent: of equal reducible losses the smaller id is trained, and one
    that is not finite counts as the largest; the selection pass is in eval mode, since the authors' train
    mode moves BatchNorm's statistics.
    """

    scores: Paths = option(..., "File of irreducible losses, or several, whose mean counts.")
    kept: Annotated[float, Field(gt=0, le=1)] = option(
        0.1, "Fraction of the candidates that is trained.", "fraction"
    )
    scope: Literal["rank", "global"] = option(
        "rank", "Candidates that are compared: of each rank, or of all ranks together."
    )
    selection_mode: Literal["eval", "train"] = option("eval", "Mode of the network in the selection pass.")

    @property
    def columns(self) -> dict[str, tuple]:
        """The irreducible losses."""
        return {"irreducible": (np.float32, np.nan)}

    def init_columns(self, rows: range, n_total: int, fingerprint: str) -> Mapping[str, np.ndarray]:
        """Read the irreducible losses from the files."""
        loss, _ = read_scores(self.scores, rows, n_total, fingerprint)
        return {"irreducible": loss.astype(np.float32)}

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Make the samples that have a score candidates; all, if none has."""
        known = ~np.isnan(ledger.extra["irreducible"])
        (n_known,) = everyone.count(known)
        train = known if n_known else np.ones(len(ledger), bool)
        return Plan(train=train, max_fraction=1 - n_known / ledger.n_total if n_known else 0.0)

    def selection_pass(self, global_batch: int) -> SelectionPass:
        """Return a pass over as many candidates as make one training batch."""
        n = round(global_batch / self.kept)
        return SelectionPass(n, mode=self.selection_mode, columns=("irreducible",))

    def select(
        self, epoch: Epoch, candidates: Candidates, state: MethodState, everyone: GlobalStats
    ) -> tuple[Choice, MethodState]:
        """Choose the largest reducible losses."""
        reducible = candidates.loss - candidates.extra["irreducible"]
        easiness = np.where(np.isnan(reducible), np.float32(-np.inf), -reducible)
        if self.scope == "global":
            (n,) = everyone.count(np.ones(len(easiness), bool))
            rows = np.flatnonzero(everyone.first(easiness, max(1, int(self.kept * n)), candidates.id))
        else:
            n = max(1, int(self.kept * len(easiness)))
            rows = np.sort(np.lexsort((candidates.id, easiness))[:n])
        return Choice(rows, np.ones(len(rows), np.float32)), state

    @field_validator("scores")
    @classmethod
    def _some(cls, paths: list[str]) -> list[str]:
        if not paths:
            raise ValueError(
                "must name a file of irreducible losses; write one with kakurenbo score irreducible JOB "
                "--hold-out hash:.5"
            )
        return paths
