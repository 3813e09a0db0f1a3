"""Copies of a state, in host memory that is used again: the first touch of fresh memory takes longer than many copies."""

from __future__ import annotations

from typing import Any

import torch


class Snapshot:
    """One copy at a time of a state: tensors in mappings, lists and tuples, among plain values."""

    def __init__(self, pinned: bool = False):
        """pinned: the state lives on a GPU, which copies faster into memory that cannot be swapped."""
        self._pinned = pinned
        self._kept: dict[tuple, torch.Tensor] = {}

    def of(self, state: Any) -> Any:
        """Return a copy of the state as it is now, in place of the copy before."""
        copy = self._copied(state, ())
        if self._pinned:
            torch.cuda.synchronize()
        return copy

    def _copied(self, value: Any, path: tuple) -> Any:
        if isinstance(value, torch.Tensor):
            kept = self._kept.get(path)
            if kept is None or (kept.shape, kept.dtype) != (value.shape, value.dtype):
                kept = self._kept[path] = torch.empty(value.shape, dtype=value.dtype, pin_memory=self._pinned)
            return kept.copy_(value.detach(), non_blocking=self._pinned)
        if isinstance(value, dict):
            return {name: self._copied(part, (*path, name)) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copied(part, (*path, i)) for i, part in enumerate(value))
        return value
