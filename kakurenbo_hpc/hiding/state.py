"""Saved state of `Hiding`: between two epochs, and of an unfinished pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..core.ledger import Homes, Ledger
from ..distributed.comm import Comm
from ..errors import LoopError
from ..selection.method import Method
from .passes import Passes
from .samplers import Pass


def epoch_state(passes: Passes, method: Method, seed: int, comm: Comm) -> dict[str, Any]:
    """Return the state after the last epoch that is done, the same on every rank. Collective."""
    method_states = comm.gather(dict(passes.method_state))
    return {
        "format": 1,
        "epoch": passes.last_epoch,
        "method": method.model_dump(),
        "seed": seed,
        "ledger": gather_columns(passes.ledger.columns(), comm),
        "method_state": [
            {name: torch.from_numpy(array) for name, array in of_rank.items()} for of_rank in method_states
        ],
    }


def load_epoch_state(
    state: dict[str, Any], passes: Passes, method: Method, homes: Homes, seed: int, comm: Comm
) -> None:
    """Continue after the epoch that the state was taken after, on any number of ranks.

    Raises:
        LoopError: the state is of another method, seed or data set.
    """
    n_saved = len(state.get("ledger", {}).get("loss", ()))
    expected = {"format": 1, "method": method.model_dump(), "seed": seed, "samples": homes.n}
    for name, value in expected.items():
        saved = n_saved if name == "samples" else state.get(name)
        if saved != value:
            raise LoopError(
                f"hiding: the state has {name} {saved}, but this run has {value}; load its own state"
            )
    start, stop = homes.rows(comm.rank)
    columns = {name: column[start:stop].numpy().copy() for name, column in state["ledger"].items()}
    passes.restore(Ledger.of(homes.n, start, columns), state["epoch"])
    states = state.get("method_state") or [{}]
    mine = states[comm.rank % len(states)]
    passes.method_state = {
        **method.init_state(),
        **{name: array.numpy().copy() for name, array in mine.items()},
    }


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
