"""Straggler report: the rank that was slower than the others over the steps of an epoch."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..distributed.comm import Comm

STAGES = ("reading", "forward", "backward")

# What an epoch must have, and a rank be slower by in one of its stages, to be worth a line.
_LEAST_STEPS = 20
_LEAST_FACTOR = 1.5
_LEAST_SHARE = 0.1  # of the time that the others take for all stages
_LEAST_S = 1.0


class Straggler(NamedTuple):
    """A rank that was slow in a stage; seconds of an epoch, of it and of the others (their median)."""

    rank: int
    stage: str
    seconds: float
    usual_s: float


def report_straggler(parts: Mapping[str, float], n_steps: int, comm: Comm) -> str:
    """Return a sentence on the rank that held up the others most, empty if none did. Collective.

    Args:
        parts: seconds of this rank by part of the epoch's training and refresh, see ``PartTimer``.
        n_steps: of training in that time.
        comm: all ranks.
    """
    if comm.size == 1 or n_steps < _LEAST_STEPS:
        return ""
    found = find_straggler(comm.allgather(np.array([_own_seconds(parts)])))
    if found is None:
        return ""
    host = comm.broadcast(socket.gethostname(), root=found.rank)
    factor = found.seconds / max(found.usual_s, 1e-3)
    return (
        f"rank {found.rank} on {host} was slower than the others: {found.stage} took {found.seconds:.1f} s "
        f"in {n_steps} steps, {factor:.1f} times their {found.usual_s:.1f} s"
    )


def find_straggler(seconds: np.ndarray) -> Straggler | None:
    """Return the rank and stage with the greatest excess over the other ranks, if it is worth a line.

    Args:
        seconds: (P, 3) float64, of each rank in each of ``STAGES``, without waiting for others.
    """
    usual = np.quantile(seconds, 0.5, axis=0, method="lower")  # of two ranks, that of the faster one
    excess = seconds - usual
    rank, stage = divmod(int(excess.argmax()), len(STAGES))
    least = max(_LEAST_S, _LEAST_SHARE * usual.sum(), (_LEAST_FACTOR - 1) * usual[stage])
    if excess[rank, stage] < least:
        return None
    return Straggler(rank, STAGES[stage], float(seconds[rank, stage]), float(usual[stage]))


def _own_seconds(parts: Mapping[str, float]) -> tuple[float, float, float]:
    """Return this rank's seconds in ``STAGES``. The end of a backward pass waits for other ranks."""
    forward = parts["selection_forward"] + parts["training_forward"]
    return parts["data_wait"], forward, parts["backward"] - parts["gradient_exchange"]
