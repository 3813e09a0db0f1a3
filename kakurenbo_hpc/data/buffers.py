"""Memory to read into, used again as soon as nobody refers to it: fresh pages cost more than reading does."""

from __future__ import annotations

import sys
from collections import deque

import numpy as np
import torch

# The list's, the loop's and getrefcount's own; a tensor over the array, a view of it or a graph that keeps one is another.
_FREE = 3


class Buffers:
    """Arrays of one dtype and of one shape but for their first length, which is that of the longest asked for."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, pinned: bool):
        self._shape, self._dtype, self._pinned = shape, dtype, pinned
        self._arrays: list[np.ndarray] = []
        self._leaving: deque[tuple[torch.cuda.Event, torch.Tensor]] = deque()

    def take(self, n: int) -> np.ndarray:
        """Return an array (n, ...), of any content, that nobody else has."""
        while self._leaving and self._leaving[0][0].query():
            self._leaving.popleft()
        for array in self._arrays:
            if len(array) >= n and sys.getrefcount(array) <= _FREE:
                return array[:n]
        self._arrays = [array for array in self._arrays if len(array) >= n]
        self._arrays.append(self._fresh(n))
        return self._arrays[-1][:n]

    def to(self, array: np.ndarray, device: torch.device) -> torch.Tensor:
        """Return what was read as a tensor on the device; on a CPU it is the array's memory."""
        tensor = torch.from_numpy(array)
        if device.type == "cpu":
            return tensor
        moved = tensor.to(device, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._leaving.append((event, tensor))  # the array is not free before its copy has been made
        return moved

    def _fresh(self, n: int) -> np.ndarray:
        if not self._pinned:
            return np.empty((n, *self._shape), self._dtype)
        n_bytes = n * int(np.prod(self._shape)) * self._dtype.itemsize
        return torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True).numpy().view(self._dtype).reshape(n, *self._shape)
