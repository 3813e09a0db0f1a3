"""Schedulers: batch systems, one file and one script template each, found by file name."""

from __future__ import annotations

from ...config.registry import Registry, scan
from .scheduler import Scheduler

SCHEDULERS: Registry[type[Scheduler]] = Registry(
    "scheduler", scan(__name__, leave_out=("commands", "scheduler")), "kakurenbo_hpc.schedulers", Scheduler
)


def open_scheduler(name: str) -> Scheduler:
    """Return the scheduler of this name."""
    return SCHEDULERS[name]()
