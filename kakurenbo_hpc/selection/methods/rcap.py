"""RCAP: Robust, Class-Aware, Probabilistic dynamic dataset pruning (UAI 2025)."""

import numpy as np

from ...config.options import Fraction, Positive, option
from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..class_selection import allocate, first_of_class
from ..float_keys import CHUNK
from ..global_stats import GlobalStats
from ..method import FORWARD_COLUMNS
from ..predicted_loss import OrderedByLoss


class Rcap(OrderedByLoss):
    """Shares what is trained among the classes by their losses, and draws in each by the softmax of loss.

    K = N - floor(F N) samples are trained. Class c has k_c of them, in proportion to sqrt(L_c n_c / N);
    a class that this would exceed gives all, and the others share the rest again. Within the class, draws
    without replacement, P(i) = softmax of loss / beta. Losses are clipped to [0, ln C].

    F: ``fraction``. beta: ``temperature``. L_c: the class's mean loss. The K drawn of a class are those of
    smallest log(-log u) - loss / beta: the order of sequential draws.

    Our choices where paper and code differ or are silent: L_c is of all samples of the class, not of those
    trained last; whole numbers by the largest remainder; unseen samples, whose class is not known, are a
    class of their own with loss ln C; a loss that is not finite counts as ln C.
    """

    fraction: Fraction = option(0.3, "Fraction F of the samples that is hidden.", "fraction")
    temperature: Positive = option(2.0, "Temperature beta of the softmax; larger draws more uniformly.")

    @property
    def columns(self) -> dict[str, tuple]:
        """The class of each sample, and what predicts its loss."""
        return {**super().columns, "label": FORWARD_COLUMNS["label"]}

    @property
    def max_hidden_fraction(self) -> float:
        """Always this fraction."""
        return self.fraction

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Draw in every class."""
        ledger = self.with_losses(epoch, ledger)
        n, label = ledger.n_total, ledger.extra["label"] + 1  # class 0: not known
        n_classes = int(everyone.max(label)) + 1
        ceiling = np.float32(np.log(max(2, n_classes - 1)))
        loss = np.clip(ledger.loss, 0, ceiling)
        loss[~np.isfinite(ledger.loss)] = ceiling

        n_of_class = everyone.add(np.bincount(label, minlength=n_classes))
        total = everyone.class_sum(loss, label, n_classes)  # L_c n_c
        n_kept = n - int(np.floor(self.fraction * n))
        kept_of_class = allocate(n_kept, np.sqrt(total / n), n_of_class)

        order, ids = np.empty(len(ledger), np.float32), ledger.id
        for start in range(0, len(ledger), CHUNK):
            rows = slice(start, start + CHUNK)
            u = epoch.rng.uniform(ids[rows], "rcap")
            with np.errstate(divide="ignore"):  # a draw of 0 comes last
                order[rows] = np.log(-np.log(u)) - loss[rows].astype(np.float64) / self.temperature
        train = first_of_class(order, kept_of_class, label, ledger.rows, everyone)
        return Plan(train=train, max_fraction=1 - n_kept / n)
