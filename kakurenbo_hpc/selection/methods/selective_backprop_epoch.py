"""Accelerating Deep Learning by Focusing on the Biggest Losers (Angela Jiang et al. 2019): a variant, epoch by epoch."""

from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..global_stats import GlobalStats
from ..sampling import known
from ..selectivity import Selectivity


class SelectiveBackpropEpoch(Selectivity):
    """Trains each sample with probability CDF(l_i)^beta, CDF(l) the share of all lagging losses <= l at the epoch's start.

    A variant, not the paper's method: that one picks from candidate batches after a forward pass, by the last R losses.

    Our choices: the CDF is over the finite losses; samples without one are always trained; nothing is
    reweighted or refreshed, so a sample keeps its loss until it is drawn again.
    """

    needs_losses = True

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        return self.chosen_by(ledger.loss, known(ledger), epoch, ledger, everyone)
