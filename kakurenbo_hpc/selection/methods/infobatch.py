"""InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning (Ziheng Qin et al., ICLR 2024)."""

import re
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field

from ...config.options import Fraction, option
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ...core.rng import Stream
from ..float_keys import CHUNK, round_up
from ..global_stats import GlobalStats
from ..predicted_loss import OrderedByLoss
from ..sampling import train_all

_QUANTILE = re.compile(r"quantile\((\d*\.?\d+)\)")


def _check_threshold(value: str) -> str:
    match = _QUANTILE.fullmatch(value)
    if value != "mean" and not (match and 0 < float(match[1]) < 1):
        raise ValueError("must be mean or quantile(q) with q in (0, 1), for example quantile(0.8)")
    return value


class InfoBatch(OrderedByLoss):
    """Leaves out samples of low loss at random and scales up the others, which keeps the expected gradient.

    The score H_t(z) is the last loss; a pruned sample keeps its own (Eq. 4). In epochs below delta
    (``anneal``) x all epochs, each sample whose score is below the mean is left out with probability r
    (``prune_ratio``), and weighs 1 / (1 - r) if it stays. After that, everything is trained. There is no
    refresh pass.

    Our choices where the paper is silent: the mean is over finite losses; other losses are above it;
    quantile(q) is the loss below which lie at most floor(q n) of the n finite ones.
    """

    needs_losses = True
    scaling_options = ("rescale",)

    prune_ratio: Fraction = option(
        0.5, "Probability r with which a sample on the pruned side of the threshold is left out.", "fraction"
    )
    anneal: Annotated[float, Field(gt=0, le=1)] = option(
        0.875, "Fraction delta of the epochs in which anything is hidden; 1 for all of them.", "fraction"
    )
    threshold: Annotated[str, AfterValidator(_check_threshold)] = option(
        "mean", "Threshold of the loss: mean, or quantile(q) as in the authors' ImageNet code."
    )
    prune: Literal["below", "above"] = option(
        "below", "Side of the threshold that is pruned, strictly below or above it."
    )
    rescale: bool = option(True, "Multiply the losses of the samples left on the pruned side by 1 / (1 - r).")
    exact_share: bool = option(
        False,
        "Hide exactly floor(r n) of the n samples on the pruned side, as the authors' code does, "
        "instead of each with "
        "probability r (Eq. 3).",
    )

    @property
    def max_hidden_fraction(self) -> float:
        """The probability r: a plan hides that fraction if all samples are on the pruned side."""
        return self.prune_ratio

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Hide on the pruned side of the threshold, and weigh what stays there."""
        if not epoch.number < self.anneal * epoch.total:
            return train_all(ledger)
        ledger, r = self.with_losses(epoch, ledger), self.prune_ratio
        side = self.pruned_side(ledger, everyone)
        (n_side,) = everyone.count(side)

        if self.exact_share:
            draw = epoch.rng.uniform(ledger.id, "infobatch").astype(np.float32)
            hidden = everyone.first(draw, int(np.floor(r * n_side)), ledger.id, among=side)
        else:
            hidden = self.hide_independently(epoch.rng, side, ledger.start)
        return Plan(
            train=~hidden,
            weight=np.maximum(side * np.float32(1 / (1 - r)), np.float32(1)) if self.rescale else None,
            max_fraction=r if self.exact_share else n_side / ledger.n_total,
            n_candidates=n_side,
            probability=np.where(side, np.float32(1 - r), np.float32(1)),
        )

    def pruned_side(self, ledger: Ledger, everyone: GlobalStats) -> np.ndarray:
        """Return (S,) bool: the samples on the pruned side of the threshold; never an unseen one."""
        quantile = _QUANTILE.fullmatch(self.threshold)
        if quantile is None:
            level, n = everyone.mean(ledger.loss)
        else:
            q = float(quantile[1])
            (n,) = everyone.count(np.isfinite(ledger.loss))
            level = (
                everyone.kth_smallest(ledger.loss, int(np.floor(q * n)) + 1, ledger.id)[0] if n else np.nan
            )
        if not n:
            return np.zeros(len(ledger), bool)  # no loss is known
        if self.prune == "below":
            return ledger.loss < round_up(level)
        return ~(ledger.loss <= np.float64(level)) & ledger.seen

    def hide_independently(self, rng: Stream, side: np.ndarray, start: int) -> np.ndarray:
        """Return (S,) bool: each sample on that side with probability r; start: the first id."""
        hidden = np.empty(len(side), bool)
        for first in range(0, len(side), CHUNK):
            chunk = side[first : first + CHUNK]
            ids = np.arange(start + first, start + first + len(chunk))
            hidden[first : first + CHUNK] = chunk & (rng.uniform(ids, "infobatch") < self.prune_ratio)
        return hidden
