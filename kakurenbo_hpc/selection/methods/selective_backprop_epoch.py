"""Accelerating Deep Learning by Focusing on the Biggest Losers (Jiang et al. 2019): epoch-level variant."""

from ...core.ledger import Ledger
from ...core.plan import Epoch, Plan
from ..global_stats import GlobalStats
from ..loss_percentile import LossPercentile
from ..predicted_loss import OrderedByLoss
from ..sampling import has_loss


class SelectiveBackpropEpoch(LossPercentile, OrderedByLoss):
    """Trains each sample with probability CDF(l_i)^beta, CDF(l) the share of all lagging losses <= l.

    A variant, not the paper's method: that one picks from candidate batches after a forward pass, by the
    last R losses. KAKURENBO's authors compared with this one.

    Our choices: the CDF is over the finite losses; samples without one are always trained; nothing is
    reweighted or refreshed, so a sample keeps its loss until it is drawn again.
    """

    needs_losses = True

    def plan(self, epoch: Epoch, ledger: Ledger, everyone: GlobalStats) -> Plan:
        """Choose by the percentile of the loss."""
        ledger = self.with_losses(epoch, ledger)
        return self.plan_by_loss(ledger.loss, has_loss(ledger), epoch, ledger, everyone)
