"""The ranks of a training loop of one's own."""

from __future__ import annotations

import os

import torch.distributed as dist

from ..distributed.comm import Comm, SerialComm
from ..distributed.launch_env import read_launch_env
from ..distributed.world import open_comm
from ..errors import LoopError


def find_comm() -> Comm:
    """Return the ranks of torch.distributed if it is initialised, else those of the launcher, if any.

    Raises:
        LoopError: torchrun started several ranks, but torch.distributed is not initialised.
    """
    if dist.is_available() and dist.is_initialized():
        from ..distributed.comm_torch import GroupComm

        return GroupComm(dist.new_group(backend="gloo"))
    launched = read_launch_env(os.environ)
    if launched is not None and launched.starter == "torchrun":
        if launched.size > 1:
            raise LoopError(
                "hiding: torchrun started several ranks, but torch.distributed is not initialised; call "
                "torch.distributed.init_process_group first"
            )
        return SerialComm()
    return open_comm()
