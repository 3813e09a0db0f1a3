"""Schedulers: batch systems, one file and one script template each, found by file name."""

from __future__ import annotations

from ..registry import Registry
from .scheduler import Scheduler

SCHEDULERS = Registry(
    "scheduler",
    package="kakurenbo_hpc.cluster.schedulers",
    group="kakurenbo_hpc.schedulers",
    base=Scheduler,
)


def open_scheduler(name: str) -> Scheduler:
    """Return the scheduler of this name."""
    return SCHEDULERS[name]()
