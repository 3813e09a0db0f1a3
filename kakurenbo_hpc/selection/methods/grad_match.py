"""GRAD-MATCH: Gradient Matching based Data Subset Selection (Killamsetty et al., ICML 2021), online."""

from ..online_subset import OnlineSubset
from ..subsets.methods.grad_match import GradMatch as Scoring


class GradMatch(OnlineSubset, Scoring):
    """A weighted subset of each class, or of batches (PB), whose gradients add up to nearly those of all.

    Of the network that is being trained; `kakurenbo score grad_match` chooses once. See ``OnlineSubset`` for
    when, and the scoring method of the same name for how. The authors' settings: ``every`` 20, ``fraction``
    0.9, ``warm_start`` 0.5 (-Warm) or 0, ``damping`` 0.5; with ``per: batch`` 0, ``gradient: full``, and a
    batch of training. A batch lends its weight to its samples, which are then trained in the order of the
    epoch. ``n_filled`` in metrics.jsonl counts the samples that matching pursuit did not pick.
    """
