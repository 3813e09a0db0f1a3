"""InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning (Ziheng Qin et al., ICLR 2024)."""

import re
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field

from ...config.options import Fraction
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..float_keys import PIECE, ceiling
from ..global_stats import GlobalStats
from ..method import Method
from ..sampling import all_once

_QUANTILE = re.compile(r"quantile\((\d*\.?\d+)\)")


def _threshold(value: str) -> str:
    found = _QUANTILE.fullmatch(value)
    if value != "mean" and not (found and 0 < float(found[1]) < 1):
        raise ValueError("must be mean or quantile(q) with q in (0, 1), for example quantile(0.8)")
    return value


class InfoBatch(Method):
    """Leaves out samples of low loss at random and scales up those of them that stay: the expected gradient is kept.

    prune_ratio: r. anneal: delta, the share of the run in which anything is hidden (1: all of it).
    threshold: the mean loss, or quantile(q) as in the authors' ImageNet code. prune: the side of it that is pruned,
    strictly. rescale: weigh the survivors of that side by 1 / (1 - r).
    exact_share: hide exactly floor(r n) of the n on that side, as the authors' code does, not each with probability r.

    The score H_t(z) is the last loss; a pruned sample keeps its own (Eq. 4). There is no refresh pass.
    Our choices where the paper is silent: the mean is over finite losses; other losses are above it; quantile(q) is the
    loss below which lie at most floor(q n) of the n finite ones.
    """

    needs_losses = True

    prune_ratio: Fraction = 0.5
    anneal: Annotated[float, Field(gt=0, le=1)] = 0.875
    threshold: Annotated[str, AfterValidator(_threshold)] = "mean"
    prune: Literal["below", "above"] = "below"
    rescale: bool = True
    exact_share: bool = False

    @property
    def max_hidden_fraction(self) -> float:
        return self.prune_ratio

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        if not epoch.number < self.anneal * epoch.total:
            return all_once(ledger)
        r = self.prune_ratio
        side = self.side(ledger, everyone)
        (n_side,) = everyone.count(side)

        if self.exact_share:
            draw = epoch.uniform(ledger.id, "infobatch").astype(np.float32)
            hidden = everyone.first(draw, int(np.floor(r * n_side)), ledger.id, among=side)
        else:
            hidden = self.independent(epoch, side, ledger.start)
        return Plan(
            train=~hidden,
            weight=np.maximum(side * np.float32(1 / (1 - r)), np.float32(1)) if self.rescale else None,
            max_fraction=r if self.exact_share else n_side / ledger.n_total,
            n_candidates=n_side,
        )

    def independent(self, epoch: Epoch, side: np.ndarray, start: int) -> np.ndarray:
        """Return (S,) bool: of the samples on that side, each with probability r."""
        hidden = np.empty(len(side), bool)
        for first in range(0, len(side), PIECE):
            some = side[first : first + PIECE]
            ids = np.arange(start + first, start + first + len(some))
            hidden[first : first + PIECE] = some & (epoch.uniform(ids, "infobatch") < self.prune_ratio)
        return hidden

    def side(self, ledger: Ledger, everyone: GlobalStats) -> np.ndarray:
        """Return (S,) bool: the samples on the pruned side of the threshold; never an unseen one."""
        if self.threshold == "mean":
            level, n = everyone.mean(ledger.loss)
        else:
            q = float(_QUANTILE.fullmatch(self.threshold)[1])
            (n,) = everyone.count(np.isfinite(ledger.loss))
            level = (
                everyone.kth_smallest(ledger.loss, int(np.floor(q * n)) + 1, ledger.id)[0] if n else np.nan
            )
        if not n:
            return np.zeros(len(ledger), bool)  # of no loss is anything known
        if self.prune == "below":
            return ledger.loss < ceiling(level)
        return ~(ledger.loss <= np.float64(level)) & ledger.seen
