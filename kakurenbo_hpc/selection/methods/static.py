"""Score, then prune: trains on what a score file keeps (EL2N and GraNd: Paul et al. 2021; forgetting: Toneva et al. 2018)."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import field_validator

from ...config.options import Fraction
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..cyclic_permutation import walked
from ..global_stats import GlobalStats
from ..method import FORWARD_COLUMNS, Method
from ..score_file import Paths, read_scores


class Static(Method):
    """Hides floor(F N) samples for the whole run: those of lowest score, or of highest.

    scores: a score file, or several, whose mean counts. keep: which end stays. fraction: F, the share hidden, as in all
    methods; Paul et al. keep the highest 70 % on CIFAR-10: 0.3 here.
    class_balance: hide floor(F n_c) of the n_c samples of every class instead; the files must hold labels.
    budget: an epoch is one pass over what is kept (epochs), or takes as many steps as one over everything (steps):
    N entries, going round and round through permutations of what is kept.

    Our choices where the paper is silent: of equal scores the smaller id is hidden; a sample whose score is NaN stays.
    """

    may_repeat = True

    scores: Paths
    keep: Literal["highest", "lowest"] = "highest"
    fraction: Fraction = 0.3
    class_balance: bool = False
    budget: Literal["epochs", "steps"] = "epochs"

    @property
    def columns(self) -> dict[str, tuple]:
        return {"score": (np.float32, np.nan)} | (
            {"label": FORWARD_COLUMNS["label"]} if self.class_balance else {}
        )

    def init_columns(self, rows: range, n_total: int, fingerprint: str) -> Mapping[str, np.ndarray]:
        score, label = read_scores(self.scores, rows, n_total, fingerprint, labels=self.class_balance)
        return {"score": score.astype(np.float32)} | ({"label": label} if self.class_balance else {})

    @property
    def max_hidden_fraction(self) -> float:
        return self.fraction if self.budget == "epochs" else 1.0

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        score = ledger.extra["score"] if self.keep == "highest" else -ledger.extra["score"]
        is_known = ~np.isnan(score)
        if self.class_balance:
            hidden = self.first_of_class(score, ledger, everyone) & is_known
        else:
            hidden = everyone.smallest(score, self.fraction, ledger.id, among=is_known)
        if self.budget == "epochs":
            return Plan(train=~hidden, max_fraction=self.fraction)

        n, (n_hidden,) = ledger.n_total, everyone.count(hidden)
        start, stop = epoch.number * n, (epoch.number + 1) * n
        times = walked(start, stop, n - n_hidden, epoch, ledger.id, "static", everyone, among=~hidden)
        return Plan(train=times, max_fraction=self.fraction)

    @field_validator("scores")
    @classmethod
    def _some(cls, paths: list[str]) -> list[str]:
        if not paths:
            raise ValueError("must name a score file; write one with kakurenbo score")
        return paths

    def first_of_class(self, score: np.ndarray, ledger: Ledger, everyone: GlobalStats) -> np.ndarray:
        """Mark, in every class, the floor(F n_c) samples of smallest (score, id)."""
        label = ledger.extra["label"] + 1  # from 0, should a label be unknown
        ones = np.ones(len(label), np.float32)
        n = everyone.class_sum(ones, label, int(everyone.max(label)) + 1)
        in_order = everyone.rank(score, ledger.id)
        by_class = everyone.rank(label.astype(np.float32), in_order)
        place = by_class - (np.cumsum(n) - n)[label]
        return place < np.floor(self.fraction * n)[label]
