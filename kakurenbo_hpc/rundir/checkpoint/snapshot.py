"""Snapshots of a state in reused host memory: page faults of fresh memory cost more than the copy."""

from __future__ import annotations

from typing import Any

import torch


class Snapshot:
    """Copy of a state: tensors in mappings, lists and tuples, among plain values."""

    def __init__(self, pinned: bool = False) -> None:
        """Allocate nothing yet.

        Args:
            pinned: use page-locked memory, into which a GPU copies faster.
        """
        self._pinned = pinned
        self._buffers: dict[tuple, torch.Tensor] = {}

    def of(self, state: Any) -> Any:
        """Copy the state; the previous copy is overwritten."""
        copy = self._copy(state, ())
        if self._pinned:
            torch.cuda.synchronize()
        return copy

    def _copy(self, value: Any, path: tuple) -> Any:
        if isinstance(value, torch.Tensor):
            buffer = self._buffers.get(path)
            if buffer is None or (buffer.shape, buffer.dtype) != (value.shape, value.dtype):
                buffer = self._buffers[path] = torch.empty(
                    value.shape, dtype=value.dtype, pin_memory=self._pinned
                )
            return buffer.copy_(value.detach(), non_blocking=self._pinned)
        if isinstance(value, dict):
            return {name: self._copy(part, (*path, name)) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copy(part, (*path, i)) for i, part in enumerate(value))
        return value
