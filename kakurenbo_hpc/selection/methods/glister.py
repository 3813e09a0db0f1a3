"""GLISTER: Generalization based Data Subset Selection ... (Killamsetty et al., AAAI 2021), online."""

from ..online_subset import OnlineSubset
from ..subsets.methods.glister import Glister as Scoring


class Glister(OnlineSubset, Scoring):
    """The samples whose gradients most lower the loss of a validation set after a step.

    Of the network that is being trained; `kakurenbo score glister` chooses once. See ``OnlineSubset`` for
    when, and the scoring method of the same name for how. cords chooses among all classes together, by
    ``bias``, every 20 epochs: ``class_balance: false``, ``greedy: rgreedy``.
    """
