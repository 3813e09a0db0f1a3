"""State of an unfinished pass, for resuming inside an epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..distributed.comm import Comm
from ..errors import LoopError
from .passes import Passes
from .samplers import Pass


def gather_columns(columns: dict[str, np.ndarray], comm: Comm) -> dict[str, torch.Tensor]:
    """Return the columns of all ranks, one after the other, on every rank. Collective."""
    parts = comm.gather(columns)
    return {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in columns}


def pass_state(current: Pass, global_batch: int, comm: Comm) -> dict[str, Any]:
    """Return how far the pass has come, and the statistics of all ranks. Collective."""
    return {
        "name": current.name,
        "epoch": current.epoch.number,
        "n_observed": current.n_observed,
        "global_batch": global_batch,
        "stats": gather_columns(current.stats_buffer.state_dict(), comm),
    }


def resume_pass(passes: Passes, state: dict[str, Any], global_batch: int, comm: Comm) -> dict[str, Any]:
    """Begin the pass again after the batches observed before; return the epoch's metrics. Collective.

    Raises:
        LoopError: it is no training pass, or was cut into other batches.
    """
    epoch = state["epoch"]
    if state["name"] != "visible":
        raise LoopError(
            f"hiding: the state was saved in the {state['name']} pass of epoch {epoch}, which cannot be "
            "resumed; load one that was saved while training or between two epochs"
        )
    if state["global_batch"] != global_batch:
        raise LoopError(
            f"hiding: the state was saved inside epoch {epoch} with global batches of "
            f"{state['global_batch']}, but this run has {global_batch}; keep ranks x batch_size x "
            "accumulate, or load a state that was saved between two epochs"
        )
    rows = slice(comm.rank, None, comm.size)
    stats = {name: column[rows].numpy().copy() for name, column in state["stats"].items()}
    return passes.resume_visible(epoch, state["n_observed"], stats)
