"""Memory to read into, used again as soon as nobody refers to it: fresh pages cost more than reading does."""

from __future__ import annotations

import math
import sys
from collections import deque

import numpy as np
import torch


class PinnedPool:
    """Arrays of one dtype and of one shape but for their first length, which is that of the longest asked for."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, pinned: bool):
        self._shape, self._dtype, self._pinned = shape, dtype, pinned
        self._memory: list[
            np.ndarray
        ] = []  # bytes: every view of them, however it was made, refers to just these arrays
        self._leaving: deque[tuple[torch.cuda.Event, torch.Tensor]] = deque()

    def take(self, n: int) -> np.ndarray:
        """Return an array (n, ...), of any content, that nobody else has."""
        while self._leaving and self._leaving[0][0].query():
            self._leaving.popleft()
        n_bytes = n * math.prod(self._shape) * self._dtype.itemsize
        for memory, n_references in zip(self._memory, _references(self._memory)):
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
        """Return what was read as a tensor on the device; on a CPU it is the array's memory."""
        tensor = torch.from_numpy(array)
        if device.type == "cpu":
            return tensor
        moved = tensor.to(device, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._leaving.append((event, tensor))  # the array is not free before its copy has been made
        return moved

    def _array(self, memory: np.ndarray, n_bytes: int) -> np.ndarray:
        return memory[:n_bytes].view(self._dtype).reshape(-1, *self._shape)


def _references(arrays: list[np.ndarray]) -> list[int]:
    return [sys.getrefcount(array) for array in arrays]


# A tensor over an array, a view of it or a graph that keeps one is one reference more.
_FREE = _references([np.empty(0, np.uint8)])[0]
