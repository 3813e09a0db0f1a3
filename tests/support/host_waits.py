"""Operations for which the host would wait for a GPU, found on any device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_READS = {"_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero", "unique_dim", "_unique2"}


class HostWaits(TorchDispatchMode):
    """Raises where the host reads what a device computes, or hands a number to an operation that copies it.

    The stand-in of torch.cuda.set_sync_debug_mode("error") where there is no GPU. It does not see copies
    between host and device.
    """

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        if (
            name in _READS
            or (name == "index" and _has_mask(args[1]))
            or (name == "where" and _has_number(args))
        ):
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


def _has_mask(indices: Sequence[torch.Tensor | None]) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _has_number(args: Sequence[Any]) -> bool:
    """Return whether a tensor is a Python number, which is one of the host, of 64 bits."""
    tensors = [value for value in args[1:] if isinstance(value, torch.Tensor)]
    return any(t.dim() == 0 and t.dtype in (torch.int64, torch.float64) for t in tensors)
