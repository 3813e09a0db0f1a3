"""Accelerating Deep Learning by Focusing on the Biggest Losers (Jiang et al. 2019): Selective-Backprop."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from ...config.options import Count, option
from ...core.batch import Candidates, MethodState
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..batch_level import BatchMethod, Choice, SelectionPass
from ..global_stats import GlobalStats
from ..loss_percentile import LossPercentile
from ..method import Level
from ..sampling import train_all

_LOSS_COLUMN = "selection_loss"


class SelectiveBackprop(LossPercentile, BatchMethod):
    """Forward passes over candidate batches; sample i is trained with probability CDF_R(l_i)^beta.

    CDF_R(l): the share of the last R (``history``) losses <= l, those of the whole batch included. beta: see
    ``LossPercentile``. n (``stale``): only every n-th epoch has selection passes; in between, the choice is
    made from known losses before data is read (Stale-SB).

    Our choices where the paper is silent: in a stale epoch the CDF is over the known losses of all samples;
    NaN counts as +inf; candidate batches larger than the history are compared with themselves as a whole.
    """

    needs_losses = True

    history: Count = option(1024, "Number R of past losses that a loss is compared with.")
    history_scope: Literal["rank", "global"] = option(
        "rank", "Losses in the history: of this rank's candidates, or of all ranks'."
    )
    prime_epochs: Annotated[int, Field(ge=0)] = option(
        0, "Epochs at the start that train everything; 1 in the authors' code.", "epochs"
    )
    stale: Count = option(
        1, "Every n-th epoch has selection passes; the others choose by known losses (Stale-SB).", "epochs"
    )
    stale_from: Literal["selection", "latest"] = option(
        "selection",
        "Losses of the stale epochs: of the last selection pass, as in the paper, or the latest.",
    )
    calculator: Literal["loss", "random"] = option(
        "loss", "The loss percentile; or random, a uniform draw in its place, at the same selectivity."
    )
    selection_batch: Count | None = option(
        None, "Candidates at a time, all ranks together; the training batch if not given.", "samples"
    )
    selection_precision: Literal["same", "bf16", "fp16"] = option(
        "same", "Precision of the selection pass; same as in training if not given."
    )
    reuse_forward: bool = option(
        False,
        "Run the selection pass in train mode and keep its graph, so that samples trained before "
        "the next step need no "
        "second forward pass.",
    )
    pipeline: bool = option(
        False,
        "Pass the next candidates forward before the step that the last ones made due, so by weights one "
        "step older; the metrics' staleness counts the steps.",
    )
    leftover: Literal["train", "drop"] = option(
        "train",
        "What is left in the queues at the end of an epoch is trained in a last step; or dropped, so that "
        "every batch is full, as in the paper.",
    )
    lr_clock: Literal["forward", "backward"] = option(
        "forward", "What the learning-rate schedule follows: candidates, or samples trained."
    )

    @property
    def columns(self) -> dict[str, tuple]:
        """The loss of the last selection pass, where stale epochs choose by it."""
        keeps_loss = self.stale > 1 and self.stale_from == "selection"
        return {_LOSS_COLUMN: (np.float32, np.nan)} if keeps_loss else {}

    @property
    def max_hidden_fraction(self) -> float:
        """Nothing where all samples are candidates in every epoch."""
        return super().max_hidden_fraction if self.stale > 1 else 0.0

    def init_state(self) -> MethodState:
        """Return an empty history; and a count of samples trained, where the schedule follows it."""
        trained = {"trained": np.zeros(1, np.int64)} if self.lr_clock == "backward" else {}
        return {"history": np.zeros(0, np.float32), **trained}

    def selection_level(self, epoch: Epoch) -> Level:
        """Return "batch" in epochs with selection passes."""
        since = epoch.number - self.prime_epochs
        return "batch" if since >= 0 and since % self.stale == 0 else "epoch"

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Make all samples candidates, or choose by known losses in a stale epoch."""
        if epoch.number < self.prime_epochs or self.selection_level(epoch) == "batch":
            return train_all(ledger)
        loss = ledger.extra.get(_LOSS_COLUMN, ledger.loss)
        if self.calculator == "random":
            loss = epoch.rng.uniform(ledger.id, "random percentile").astype(np.float32)
        return self.plan_by_loss(loss, ledger.seen & np.isfinite(loss), epoch, ledger, everyone)

    def selection_pass(self, global_batch: int) -> SelectionPass:
        """Return the pass that the options describe."""
        return SelectionPass(
            self.selection_batch or global_batch,
            self.selection_precision,
            self.reuse_forward,
            loss_column=_LOSS_COLUMN if self.columns else None,
            pipeline=self.pipeline,
            only_full=self.leftover == "drop",
        )

    def select(
        self, epoch: Epoch, candidates: Candidates, state: MethodState, everyone: GlobalStats
    ) -> tuple[Choice, MethodState]:
        """Choose by the percentile of the loss in the history."""
        loss = np.where(np.isnan(candidates.loss), np.inf, candidates.loss)
        latest = everyone.concatenate(loss) if self.history_scope == "global" else loss
        history = np.concatenate([state["history"], latest])[-max(self.history, len(latest)) :]
        cdf = np.searchsorted(np.sort(history), loss, side="right") / len(history)
        if self.calculator == "random":
            cdf = epoch.rng.uniform(candidates.id, "random percentile", candidates.copy)
        draw = epoch.rng.uniform(candidates.id, "selective_backprop", candidates.copy)
        rows = np.flatnonzero(draw < cdf**self.exponent)
        return Choice(rows, np.ones(len(rows), np.float32)), {**state, "history": history[-self.history :]}

    def on_epoch_trained(self, epoch: Epoch, losses: np.ndarray, state: MethodState) -> MethodState:
        """Begin the history with the losses of the prime epochs.

        Those of a stale epoch are of chosen samples only, and would make ordinary losses look low.
        """
        return {**state, "history": losses[-self.history :]} if epoch.number < self.prime_epochs else state

    @model_validator(mode="after")
    def _one_pass(self) -> "SelectiveBackprop":
        if self.pipeline and self.reuse_forward:
            raise ValueError(
                "pipeline makes the selection pass a step ahead, so that reuse_forward would find no graph "
                "as new as the weights; remove one"
            )
        return self
