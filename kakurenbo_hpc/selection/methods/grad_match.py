"""GRAD-MATCH: Gradient Matching based Data Subset Selection (Killamsetty et al., ICML 2021), every few epochs."""

from ..online_subset import OnlineSubset
from ..subsets.methods.grad_match import GradMatch as Scoring


class GradMatch(OnlineSubset, Scoring):
    """A weighted subset of each class by orthogonal matching pursuit of the sum of its gradients.

    Of the network that is being trained; `kakurenbo score grad_match` chooses once. See ``OnlineSubset`` for
    when, and the scoring method of the same name for how. Per batch (PB) is not there.
    """
