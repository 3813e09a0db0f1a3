"""Static pruning by score files (EL2N and GraNd: Paul et al. 2021; forgetting: Toneva et al. 2019)."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import field_validator

from ...config.options import Fraction, option
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..cyclic_permutation import count_visits
from ..global_stats import GlobalStats
from ..method import FORWARD_COLUMNS, Method
from ..score_file import Paths, read_scores


class Static(Method):
    """Hides floor(F N) samples for the whole run: those of lowest score, or of highest.

    F: ``fraction``. Scores come from `kakurenbo score`. With a budget of steps, an epoch takes as many
    steps as one over everything: N entries, which go through permutations of what is kept, one after the
    other.

    Our choices where the paper is silent: of equal scores the smaller id is hidden; a sample whose score is
    NaN stays.
    """

    may_repeat = True

    scores: Paths = option(..., "A score file, or several, whose mean counts.")
    keep: Literal["highest", "lowest"] = option("highest", "Whether the highest or the lowest scores stay.")
    fraction: Fraction = option(
        0.3,
        "Fraction F of the samples that is hidden; Paul et al. keep the highest 70 % on CIFAR-10, "
        "which is 0.3 here.",
        "fraction",
    )
    class_balance: bool = option(
        False, "Hide floor(F n_c) of the n_c samples of every class; the score files must hold labels."
    )
    budget: Literal["epochs", "steps"] = option(
        "epochs", "An epoch is one pass over what is kept, or takes as many steps as one over everything."
    )

    @property
    def columns(self) -> dict[str, tuple]:
        """The scores, and labels for class balance."""
        label = {"label": FORWARD_COLUMNS["label"]} if self.class_balance else {}
        return {"score": (np.float32, np.nan), **label}

    @property
    def max_hidden_fraction(self) -> float:
        """Always this fraction; unknown where permutations of what is kept are gone through."""
        return self.fraction if self.budget == "epochs" else 1.0

    def init_columns(self, rows: range, n_total: int, fingerprint: str) -> Mapping[str, np.ndarray]:
        """Read scores, and labels, from the files."""
        score, label = read_scores(self.scores, rows, n_total, fingerprint, labels=self.class_balance)
        return {"score": score.astype(np.float32)} | ({} if label is None else {"label": label})

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Hide the same samples in every epoch."""
        score = ledger.extra["score"] if self.keep == "highest" else -ledger.extra["score"]
        is_known = ~np.isnan(score)
        if self.class_balance:
            hidden = self.mark_lowest_by_class(score, ledger, everyone) & is_known
        else:
            hidden = everyone.smallest(score, self.fraction, ledger.id, among=is_known)
        if self.budget == "epochs":
            return Plan(train=~hidden, max_fraction=self.fraction)

        n, (n_hidden,) = ledger.n_total, everyone.count(hidden)
        start, stop, n_kept = epoch.number * n, (epoch.number + 1) * n, n - n_hidden
        times = count_visits(start, stop, n_kept, epoch.rng, ledger.id, "static", everyone, among=~hidden)
        return Plan(train=times, max_fraction=self.fraction)

    def mark_lowest_by_class(self, score: np.ndarray, ledger: Ledger, everyone: GlobalStats) -> np.ndarray:
        """Mark, in every class, the floor(F n_c) samples of smallest (score, id)."""
        label = ledger.extra["label"] + 1  # from 0, should a label be unknown
        ones = np.ones(len(label), np.float32)
        n = everyone.class_sum(ones, label, int(everyone.max(label)) + 1)
        by_score = everyone.rank(score, ledger.id)
        by_class = everyone.rank(label.astype(np.float32), by_score)
        rank_in_class = by_class - (np.cumsum(n) - n)[label]
        return rank_in_class < np.floor(self.fraction * n)[label]

    @field_validator("scores")
    @classmethod
    def _some(cls, paths: list[str]) -> list[str]:
        if not paths:
            raise ValueError("must name a score file; write one with kakurenbo score")
        return paths
