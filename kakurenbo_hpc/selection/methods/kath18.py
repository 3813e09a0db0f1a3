"""Not All Samples Are Created Equal: Deep Learning with Importance Sampling (Katharopoulos and Fleuret, ICML 2018)."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ...core.batch import Candidates, MethodState
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ...core.rng import bits, key
from ..batch_level import BatchMethod, Choice
from ..global_stats import GlobalStats
from ..method import FORWARD_COLUMNS
from ..sampling import all_once


class Kath18(BatchMethod):
    """From a presample of B candidates draws b with replacement, in proportion to a score g, where that pays.

    presample: B / b. score: the loss, or gnorm, the norm of d loss / d logits, the paper's upper bound (of plain cross
    entropy). reweight: weight 1 / (B g_i), g summing to 1, which keeps the expected gradient; the Selective-Backprop
    authors ran score loss without it.
    It pays while tau, a moving average (momentum 0.9) of the variance reduction of a presample,
    (1 - sum (g_i - 1/B)^2 / sum g_i^2)^(-1/2) = (B sum g_i^2)^(1/2), is above (B + 3b) / (3b); until then, all
    candidates are trained as they come, and tau is estimated from the training batches.

    Our choices: each rank draws from its own part of the presample, so that all ranks have equally many; the sums in tau
    are over all ranks, so that all switch in the same step; NaN scores are the largest finite one.
    """

    presample: Annotated[float, Field(ge=1, le=1000)] = 3.0
    score: Literal["loss", "gnorm"] = "gnorm"
    reweight: bool = True

    @property
    def columns(self) -> dict[str, tuple]:
        return {"el2n": FORWARD_COLUMNS["el2n"]} if self.score == "gnorm" else {}

    @property
    def max_hidden_fraction(self) -> float:
        return 0.0  # all are candidates

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        return all_once(ledger)

    def init_state(self) -> MethodState:
        return {**super().init_state(), "tau": np.zeros(1)}

    def looks(self, state: MethodState) -> bool:
        return state["tau"][0] > (self.presample + 3) / 3

    def select(
        self, epoch: Epoch, candidates: Candidates, state: MethodState, everyone: GlobalStats
    ) -> tuple[Choice, MethodState]:
        g = self.scores(candidates)
        n = len(g)
        n_drawn = max(1, round(n / self.presample))
        share = np.cumsum(g) / g.sum() if g.sum() > 0 else np.arange(1, n + 1) / n
        # Keyed by the candidate in whose place it is drawn: which rank draws, and when, does not matter.
        draw = (
            bits(key(epoch.seed, "kath18", epoch.number), candidates.id[:n_drawn], candidates.copy[:n_drawn])
            * 2.0**-64
        )
        rows = np.minimum(np.searchsorted(share, draw, side="right"), n - 1)
        chance = np.diff(share, prepend=0)[rows]
        weight = 1 / (n * chance) if self.reweight else np.ones(n_drawn)
        return Choice(rows, weight.astype(np.float32)), self.learned(candidates, state, everyone)

    def learned(self, batch: Candidates, state: MethodState, everyone: GlobalStats) -> MethodState:
        g = self.scores(batch).astype(np.float32)
        total, n = everyone.sum(g)
        squares, _ = everyone.sum(g * g)
        reduction = np.sqrt(n * squares) / total if total > 0 else 1.0
        return {**state, "tau": 0.9 * state["tau"] + 0.1 * reduction}

    def scores(self, batch: Candidates) -> np.ndarray:
        """Return (k,) float64, not negative."""
        g = np.maximum(batch.loss if self.score == "loss" else batch.extra["el2n"], 0).astype(np.float64)
        return np.where(np.isfinite(g), g, np.max(g, initial=0, where=np.isfinite(g)))

    def candidates(self, global_batch: int) -> int:
        return round(self.presample * global_batch)
