"""CRAIG: Coresets for Data-efficient Training ... (Mirzasoleiman et al., ICML 2020), online."""

from ..online_subset import OnlineSubset
from ..subsets.methods.craig import Craig as Scoring


class Craig(OnlineSubset, Scoring):
    """Medoids of each class by distances of gradients, weighted by the sizes of their clusters.

    Of the network that is being trained; `kakurenbo score craig` chooses once. See ``OnlineSubset`` for when,
    and the scoring method of the same name for how. The authors choose after every epoch: ``every: 1``.
    """
