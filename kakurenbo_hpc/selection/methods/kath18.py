"""Not All Samples Are Created Equal: Deep Learning with Importance Sampling (Katharopoulos et al. 2018)."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ...config.options import option
from ...core.batch import Candidates, MethodState
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..batch_level import BatchMethod, Choice, SelectionPass
from ..global_stats import GlobalStats
from ..method import FORWARD_COLUMNS
from ..sampling import train_all


class Kath18(BatchMethod):
    """From a presample of B candidates draws b with replacement, in proportion to a score g, where that pays.

    B / b: ``presample``. g: ``score``, summing to 1. A draw weighs 1 / (B g_i), which keeps the expected
    gradient.

    It pays while tau, a moving average (momentum 0.9) of the variance reduction of a presample,
    (1 - sum (g_i - 1/B)^2 / sum g_i^2)^(-1/2) = (B sum g_i^2)^(1/2), is above (B + 3b) / (3b). Until then all
    candidates are trained as they come, and tau is estimated from the training batches.

    Our choices: each rank draws from its own part of the presample, so that all ranks have equally many;
    the sums in tau are over all ranks, so that all switch in the same step; NaN scores are the largest
    finite one.
    """

    presample: Annotated[float, Field(ge=1, le=1000)] = option(
        3.0,
        "Candidates per trained sample, B / b; 1 / s when compared with Selective-Backprop at selectivity s.",
    )
    score: Literal["loss", "gnorm"] = option(
        "gnorm",
        "Score g: the loss, or gnorm, the norm of d loss / d logits, the paper's upper bound (of "
        "plain cross entropy).",
    )
    force: bool = option(
        False, "Draw from every presample, whether it pays or not, for runs in which tau stays low."
    )
    reweight: bool = option(
        True, "Weigh each draw by 1 / (B g_i); Selective-Backprop's authors ran score loss without it."
    )

    @property
    def columns(self) -> dict[str, tuple]:
        """The norm of d loss / d logits, where it is the score."""
        return {"el2n": FORWARD_COLUMNS["el2n"]} if self.score == "gnorm" else {}

    @property
    def max_hidden_fraction(self) -> float:
        """Nothing: all samples are candidates."""
        return 0.0

    def init_state(self) -> MethodState:
        """Return tau, 0 until it is estimated."""
        return {"tau": np.zeros(1)}

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Make all samples candidates."""
        return train_all(ledger)

    def selection_pass(self, global_batch: int) -> SelectionPass:
        """Return a pass over B candidates."""
        return SelectionPass(round(self.presample * global_batch))

    def selects_next(self, state: MethodState) -> bool:
        """Return whether selecting pays."""
        return self.force or bool(state["tau"][0] > (self.presample + 3) / 3)

    def select(
        self, epoch: Epoch, candidates: Candidates, state: MethodState, everyone: GlobalStats
    ) -> tuple[Choice, MethodState]:
        """Draw in proportion to g."""
        g = self.scores_of(candidates)
        n = len(g)
        n_drawn = max(1, round(n / self.presample))
        cumulative = np.cumsum(g) / g.sum() if g.sum() > 0 else np.arange(1, n + 1) / n
        # Keyed by the candidate in whose place it is drawn: which rank draws, and when, does not matter.
        draw = epoch.rng.bits(candidates.id[:n_drawn], "kath18", candidates.copy[:n_drawn]) * 2.0**-64
        rows = np.minimum(np.searchsorted(cumulative, draw, side="right"), n - 1)
        probability = np.diff(cumulative, prepend=0)[rows]
        weight = 1 / (n * probability) if self.reweight else np.ones(n_drawn)
        return Choice(rows, weight.astype(np.float32)), self.on_step(candidates, state, everyone)

    def on_step(self, batch: Candidates, state: MethodState, everyone: GlobalStats) -> MethodState:
        """Update tau by the variance reduction of this batch."""
        g = self.scores_of(batch).astype(np.float32)
        total, n = everyone.sum(g)
        squares, _ = everyone.sum(g * g)
        reduction = np.sqrt(n * squares) / total if total > 0 else 1.0
        return {**state, "tau": 0.9 * state["tau"] + 0.1 * reduction}

    def scores_of(self, batch: Candidates) -> np.ndarray:
        """Return (k,) float64, not negative, before they are scaled to a sum of 1."""
        g = np.maximum(batch.loss if self.score == "loss" else batch.extra["el2n"], 0).astype(np.float64)
        return np.where(np.isfinite(g), g, np.max(g, initial=0, where=np.isfinite(g)))
