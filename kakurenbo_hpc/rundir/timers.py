"""Timers: wall seconds by stage of an epoch, and by part of its training stage; without torch on CPUs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

STAGES = ("plan", "train", "refresh", "evaluate", "checkpoint")


class StageTimer:
    """Wall seconds by stage on this rank, including the time spent waiting for other ranks.

    A stage within another counts for itself alone.
    """

    def __init__(
        self,
        device: torch.device,
        before: Mapping[str, float] = {},
        begins: Callable[[str], None] = lambda stage: None,
    ) -> None:
        """Start the total.

        Args:
            device: synchronized at the end of every stage if it is a GPU.
            before: seconds of this epoch before it was resumed.
            begins: called with the name of every stage.
        """
        self._device, self._begins = device, begins
        self._begun = time.perf_counter()
        self._stage: str | None = None  # the one that is timed now
        self._before = before
        self._seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a stage."""
        self._begins(stage)
        outer, self._stage = self._stage, stage
        begun, before = time.perf_counter(), sum(self._seconds.values())
        try:
            yield
        finally:
            if self._device.type == "cuda":
                import torch

                torch.cuda.synchronize(
                    self._device
                )  # work that is only queued belongs to the stage that queued it
            inner = sum(self._seconds.values()) - before
            self._seconds[stage] += time.perf_counter() - begun - inner
            self._stage = outer
            if outer is not None:
                self._begins(outer)

    def seconds(self, parts: dict[str, float]) -> dict[str, float]:
        """Return seconds by stage, in total since the timer was made, and by part of training.

        ``select`` is what choosing samples cost: plan, scoring and selection passes, and refresh.
        """
        other = self._seconds["train"] - sum(parts.get(name, 0.0) for name in PARTS)
        select = self._seconds["plan"] + parts.get("selection_forward", 0.0) + self._seconds["refresh"]
        now = {**self._seconds, "total": time.perf_counter() - self._begun, **parts, "other": max(0.0, other)}
        now["select"] = select
        return {name: seconds + self._before.get(name, 0.0) for name, seconds in now.items()}


PARTS = ("selection_forward", "training_forward", "backward")
WAITS = ("data_wait", "gradient_exchange")  # of training and refresh; of backward


class PartTimer:
    """Seconds of many short parts, without synchronizing a GPU: events, read once per epoch."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._seconds = dict.fromkeys(PARTS + WAITS, 0.0)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._mark: float | torch.cuda.Event | None = None

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Time a part."""
        if self._on_gpu:
            import torch

            begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begun.record()
            yield
            ended.record()
            self._events.append((part, begun, ended))
        else:
            started = time.perf_counter()
            yield
            self._seconds[part] += time.perf_counter() - started

    def wait(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items; the time until each is there is ``data_wait``, on the host."""
        items = iter(items)
        while True:
            begun = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self._seconds["data_wait"] += time.perf_counter() - begun
            yield item

    def mark(self) -> None:
        """Remember this moment, for ``since_mark``."""
        if self._on_gpu:
            import torch

            self._mark = torch.cuda.Event(enable_timing=True)
            self._mark.record()
        else:
            self._mark = time.perf_counter()

    def since_mark(self, part: str) -> None:
        """Add the time since the last mark, if there is one, to a part."""
        mark, self._mark = self._mark, None
        if isinstance(mark, float):
            self._seconds[part] += time.perf_counter() - mark
        elif mark is not None:
            import torch

            ended = torch.cuda.Event(enable_timing=True)
            ended.record()
            self._events.append((part, mark, ended))

    def read(self) -> dict[str, float]:
        """Return seconds by part since ``take``. Waits for the device."""
        for part, begun, ended in self._events:
            ended.synchronize()
            self._seconds[part] += begun.elapsed_time(ended) / 1000
        self._events = []
        return dict(self._seconds)

    def take(self) -> dict[str, float]:
        """Return the same, and begin anew."""
        taken, self._seconds = self.read(), dict.fromkeys(PARTS + WAITS, 0.0)
        return taken
