"""GLISTER: Generalization based Data Subset Selection ... (Killamsetty et al., AAAI 2021), every few epochs."""

from ..online_subset import OnlineSubset
from ..subsets.methods.glister import Glister as Scoring


class Glister(OnlineSubset, Scoring):
    """The samples of each class whose gradients most lower the loss of a validation set after a step.

    Of the network that is being trained; `kakurenbo score glister` chooses once. See ``OnlineSubset`` for when,
    and the scoring method of the same name for how.
    """
