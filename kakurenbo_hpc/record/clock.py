"""Seconds by stage of one epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

STAGES = ("plan", "train", "refresh", "evaluate", "checkpoint")


class Clock:
    """Adds up wall seconds by stage, as this rank sees them; a stage that waits for others counts the waiting."""

    def __init__(self, device: torch.device):
        self._device = device
        self._begun = time.perf_counter()
        self._seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # work that is only queued belongs to the stage that queued it
            self._seconds[stage] += time.perf_counter() - begun

    def seconds(self) -> dict[str, float]:
        """Return seconds by stage, and in ``total`` since the clock was made."""
        return {**self._seconds, "total": time.perf_counter() - self._begun}
