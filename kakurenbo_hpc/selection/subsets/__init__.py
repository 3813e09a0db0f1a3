"""Scores and subsets that are chosen once, before training: `kakurenbo score`, one page a method."""

from ...config.registry import Registry, scan
from .scoring import ScoringMethod

SCORES: Registry[type[ScoringMethod]] = Registry(
    "scoring method", scan(f"{__name__}.methods"), "kakurenbo_hpc.scores", ScoringMethod
)
