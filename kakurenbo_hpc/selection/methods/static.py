"""Static pruning by score files (EL2N, GraNd: Paul et al. 2021; forgetting: Toneva et al. 2019; coresets)."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import field_validator

from ...config.options import Fraction, option
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ...errors import DataError
from ..cyclic_permutation import count_visits
from ..global_stats import GlobalStats
from ..method import FORWARD_COLUMNS, Method
from ..score_file import Paths, ScoreInfo, read_places, read_score_info, read_scores


class Static(Method):
    """Hides floor(F N) samples for the whole run: those of lowest score, or of highest.

    F: ``fraction``. Scores come from `kakurenbo score`. With a budget of steps, an epoch takes as many
    steps as one over everything: N entries, which go through permutations of what is kept, one after the
    other.

    A file of a method that chooses a subset says itself who stays: the first places of every class or of
    all samples. It serves any fraction if the method's choices nest, otherwise its own alone. Its weights,
    if it has any, multiply the losses, scaled to mean 1 over what is kept, or over each batch.

    Our choices where the paper is silent: of equal scores the smaller id is hidden; a sample whose score is
    NaN stays.
    """

    may_repeat = "with `budget: steps` alone"

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
    normalise: Literal["subset", "batch"] = option(
        "subset",
        "What the weights of a subset have mean 1 over: all of it, as CRAIG's authors; or each batch, as "
        "DeepCore and cords, which divide by the sum of its weights.",
    )

    @property
    def columns(self) -> dict[str, tuple]:
        """The scores, weights, and labels for class balance."""
        label = {"label": FORWARD_COLUMNS["label"]} if self.class_balance else {}
        return {"score": (np.float32, np.nan), "score_weight": (np.float32, 1.0), **label}

    @property
    def max_hidden_fraction(self) -> float:
        """Always this fraction; unknown where permutations of what is kept are gone through."""
        return self.fraction if self.budget == "epochs" else 1.0

    def init_columns(self, rows: range, n_total: int, fingerprint: str) -> Mapping[str, np.ndarray]:
        """Read scores, and labels, from the files."""
        score, label = read_scores(self.scores, rows, n_total, fingerprint, labels=self.class_balance)
        labels = {} if label is None else {"label": label}
        infos = [read_score_info(path) for path in self.scores]
        if all(info.places == "none" for info in infos):
            return {"score": score.astype(np.float32), **labels}
        self._check_subset(infos)
        place, among, weight = read_places(self.scores[0], rows, n_total, fingerprint)
        kept = (place >= 0) & (place < among - np.floor(self.fraction * among).astype(np.int64))
        return {"score": kept.astype(np.float32), "score_weight": weight.astype(np.float32), **labels}

    def _check_subset(self, infos: list[ScoreInfo]) -> None:
        """Check that the options are those of the file, which chooses a subset.

        Raises:
            DataError: they are not.
        """
        path, info = self.scores[0], infos[0]
        by_class = info.places == "class"
        if len(infos) > 1:
            raise DataError(f"{', '.join(self.scores)}: subsets have no mean; give one file")
        if info.fraction not in (-1, self.fraction):
            raise DataError(
                f"{path}: {info.method} chose for fraction {info.fraction:g}, but selection.fraction is "
                f"{self.fraction:g}; score again with that fraction, or set it to {info.fraction:g}"
            )
        if by_class != self.class_balance:
            raise DataError(
                f"{path}: {info.method} chose {'within classes' if by_class else 'among all samples'}; set "
                f"selection.class_balance: {str(by_class).lower()}"
            )
        if self.keep != "highest":
            raise DataError(f"{path}: {info.method} says who stays; remove selection.keep: lowest")

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Hide the same samples in every epoch."""
        score = ledger.extra["score"] if self.keep == "highest" else -ledger.extra["score"]
        is_known = ~np.isnan(score)
        if self.class_balance:
            hidden = self.mark_lowest_by_class(score, ledger, everyone) & is_known
        else:
            hidden = everyone.smallest(score, self.fraction, ledger.id, among=is_known)
        weight, by_batch = self._weights(ledger, ~hidden, everyone), self.normalise == "batch"
        if self.budget == "epochs":
            return Plan(~hidden, weight=weight, weighs_by_batch=by_batch, max_fraction=self.fraction)

        n, (n_hidden,) = ledger.n_total, everyone.count(hidden)
        start, stop, n_kept = epoch.number * n, (epoch.number + 1) * n, n - n_hidden
        times = count_visits(start, stop, n_kept, epoch.rng, ledger.id, "static", everyone, among=~hidden)
        return Plan(times, weight=weight, weighs_by_batch=by_batch, max_fraction=self.fraction)

    def _weights(self, ledger: Ledger, kept: np.ndarray, everyone: GlobalStats) -> np.ndarray | None:
        """Return the weights with mean 1 over what is kept, (S,) float32; None if all are 1."""
        weight = ledger.extra.get("score_weight")
        if weight is None or not everyone.count(weight != 1)[0]:
            return None
        mean = everyone.mean(np.where(kept, weight, np.float32(np.nan)))
        return (weight / (mean.value or 1.0)).astype(np.float32) if mean.n else None

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
