"""Retry transient OSErrors of a loaded parallel file system."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PAUSES = (0.1, 1.0)  # seconds
T = TypeVar("T")


def retry(work: Callable[[], T]) -> T:
    """Return what work returns, tried again after each pause.

    Raises:
        OSError: of the last try.
    """
    for pause in PAUSES:
        try:
            return work()
        except OSError:
            time.sleep(pause)
    return work()
