"""Pool of read buffers, reused as soon as nothing refers to them: fresh pages cost more than reading."""

from __future__ import annotations

import math
import sys
from collections import deque

import numpy as np
import torch


class PinnedPool:
    """Arrays (n, *shape) of one dtype, in memory for the largest n so far, pinned or not."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, pinned: bool):
        self._shape, self._dtype, self._pinned = shape, dtype, pinned
        # Arrays of bytes: every view of one, however it was made, refers to just this array.
        self._memory: list[np.ndarray] = []
        self._transfers: deque[tuple[torch.cuda.Event, torch.Tensor]] = deque()

    def take(self, n: int) -> np.ndarray:
        """Return an array (n, *shape) of undefined content that nothing else uses."""
        while self._transfers and self._transfers[0][0].query():
            self._transfers.popleft()
        n_bytes = n * math.prod(self._shape) * self._dtype.itemsize
        for memory, n_references in zip(self._memory, _references(self._memory), strict=True):
            if len(memory) >= n_bytes and n_references == _FREE:
                return self._array(memory, n_bytes)
        self._memory = [memory for memory in self._memory if len(memory) >= n_bytes]
        self._memory.append(
            torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True).numpy()
            if self._pinned
            else np.empty(n_bytes, np.uint8)
        )
        return self._array(self._memory[-1], n_bytes)

    def to(self, array: np.ndarray, device: torch.device) -> torch.Tensor:
        """Return an array as a tensor on the device; on a CPU it shares the array's memory."""
        tensor = torch.from_numpy(array)
        if device.type == "cpu":
            return tensor
        moved = tensor.to(device, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._transfers.append((event, tensor))  # the array is in use until it is copied
        return moved

    def _array(self, memory: np.ndarray, n_bytes: int) -> np.ndarray:
        return memory[:n_bytes].view(self._dtype).reshape(-1, *self._shape)


def _references(arrays: list[np.ndarray]) -> list[int]:
    return [sys.getrefcount(array) for array in arrays]


# The references to an array that is free; a tensor, a view or a graph that keeps one adds one.
_FREE = _references([np.empty(0, np.uint8)])[0]
