"""Every other sample, by turns: a method of another package."""

import numpy as np

from kakurenbo_hpc.config.options import Count, option
from kakurenbo_hpc.core.plan import Plan
from kakurenbo_hpc.selection.method import Method


class EveryOther(Method):
    """Trains one of ``parts`` parts of the data in each epoch."""

    parts: Count = option(2, "Parts that the ids are dealt to; one is trained in each epoch.")

    @property
    def max_hidden_fraction(self):
        return 1 - 1 / self.parts

    def plan(self, epoch, ledger, everyone):
        train = ledger.id % min(self.parts, ledger.n_total) == epoch.number % min(self.parts, ledger.n_total)
        return Plan(
            train=train, max_fraction=self.max_hidden_fraction, n_candidates=everyone.count(~train)[0]
        )


class LocalMedian(Method):
    """Breaks a law: hides what is below the median of this rank's own rows."""

    def plan(self, epoch, ledger, everyone):
        loss = np.nan_to_num(ledger.loss, nan=9.0, posinf=9.0)
        return Plan(train=loss >= np.median(loss)) if len(loss) else Plan(train=np.zeros(0, bool))


class Unkeyed(Method):
    """Breaks a law: draws by numpy's global stream."""

    def plan(self, epoch, ledger, everyone):
        train = np.random.random(len(ledger)) < 0.5
        return Plan(train=train | (ledger.id == 0))


class HidesNan(Method):
    """Breaks a law: takes a NaN for an easy sample."""

    needs_losses = True

    def plan(self, epoch, ledger, everyone):
        return Plan(train=~(np.isnan(ledger.loss) & ledger.seen) | (ledger.id == 0))


class Overweight(Method):
    """Breaks a law: a weight that is not finite."""

    def plan(self, epoch, ledger, everyone):
        return Plan(
            train=np.ones(len(ledger), bool), weight=np.where(ledger.seen, 1, np.inf).astype(np.float32)
        )


class Shy(EveryOther):
    """Breaks a law: hides more than it says."""

    @property
    def max_hidden_fraction(self):
        return 0.1
