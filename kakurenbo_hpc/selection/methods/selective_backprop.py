"""Accelerating Deep Learning by Focusing on the Biggest Losers (Angela Jiang et al., 2019): Selective-Backprop."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ...config.options import Count
from ...core.batch import Candidates, MethodState
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..batch_level import BatchMethod, Choice
from ..global_stats import GlobalStats
from ..sampling import all_once
from ..selectivity import Selectivity


class SelectiveBackprop(Selectivity, BatchMethod):
    """Forward passes over candidate batches; sample i is trained with probability CDF_R(l_i)^beta.

    history: R; CDF_R is the share of the last R losses <= l, the batch's own included. history_scope: of this rank's
    candidates, or of all ranks'.
    prime_epochs: epochs at the start that train everything (the authors' code has 1). stale: n, a selection pass only every
    n-th epoch; between, the choice is made from known losses before data is read (Stale-SB). stale_from: losses of the
    last selection pass, as in the paper, or the latest. calculator: random puts a uniform draw in the place of CDF_R,
    at the same selectivity.
    selection_batch: candidates at a time, all ranks together; the training batch if not given. selection_precision: of
    the selection pass. reuse_forward: run it in train mode and keep its graph, so that what is chosen before the next
    step needs no second forward pass. lr_clock: the schedule follows candidates, or samples trained.

    Our choices where the paper is silent: in a stale epoch the CDF is over the known losses of all samples; NaN counts as
    +inf; what is left in the queues at the end of an epoch is trained in a last step.
    """

    needs_losses = True

    history: Count = 1024
    history_scope: Literal["rank", "global"] = "rank"
    prime_epochs: Annotated[int, Field(ge=0)] = 0
    stale: Count = 1
    stale_from: Literal["selection", "latest"] = "selection"
    calculator: Literal["loss", "random"] = "loss"
    selection_batch: Count | None = None
    selection_precision: Literal["same", "bf16", "fp16"] = "same"
    reuse_forward: bool = False
    lr_clock: Literal["forward", "backward"] = "forward"

    @property
    def columns(self) -> dict[str, tuple]:
        """selection_loss: the loss of the last selection pass, where stale epochs choose by it."""
        return (
            {"selection_loss": (np.float32, np.nan)}
            if self.stale > 1 and self.stale_from == "selection"
            else {}
        )

    def thins(self, epoch: Epoch) -> bool:
        return epoch.number >= self.prime_epochs and (epoch.number - self.prime_epochs) % self.stale == 0

    @property
    def max_hidden_fraction(self) -> float:
        return super().max_hidden_fraction if self.stale > 1 else 0.0  # else all are candidates

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        if epoch.number < self.prime_epochs or self.thins(epoch):
            return all_once(ledger)
        loss = ledger.extra.get("selection_loss", ledger.loss)
        if self.calculator == "random":
            loss = epoch.uniform(ledger.id, "random percentile").astype(np.float32)
        return self.chosen_by(loss, ledger.seen & np.isfinite(loss), epoch, ledger, everyone)

    def select(
        self, epoch: Epoch, candidates: Candidates, state: MethodState, everyone: GlobalStats
    ) -> tuple[Choice, MethodState]:
        loss = np.where(np.isnan(candidates.loss), np.inf, candidates.loss)
        latest = everyone.concatenated(loss) if self.history_scope == "global" else loss
        history = np.concatenate([state["history"], latest])[-self.history :]
        cdf = np.searchsorted(np.sort(history), loss, side="right") / len(history)
        if self.calculator == "random":
            cdf = epoch.uniform(candidates.id, "random percentile", candidates.copy)
        chosen = epoch.uniform(candidates.id, "selective_backprop", candidates.copy) < cdf**self.exponent
        rows = np.flatnonzero(chosen)
        return Choice(rows, np.ones(len(rows), np.float32)), {**state, "history": history}

    def init_state(self) -> MethodState:
        return {**super().init_state(), "history": np.zeros(0, np.float32)}

    def trained(self, epoch: Epoch, losses: np.ndarray, state: MethodState) -> MethodState:
        # A stale epoch's losses are of chosen samples only, and would make what is usual look easy.
        return {**state, "history": losses[-self.history :]} if epoch.number < self.prime_epochs else state

    def candidates(self, global_batch: int) -> int:
        return self.selection_batch or global_batch

    @property
    def clocked_by_trained(self) -> bool:
        return self.lr_clock == "backward"

    @property
    def look_precision(self) -> str:
        return self.selection_precision

    @property
    def keeps_graph(self) -> bool:
        return self.reuse_forward
