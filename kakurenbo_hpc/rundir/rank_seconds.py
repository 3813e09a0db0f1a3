"""Rank seconds ``rank_seconds.h5``: seconds of every rank by epoch and stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..distributed.comm import Comm
from .atomic_io import Hdf5

OF_ALL_RANKS = ("slowest_rank", "mean_rank")


def seconds_of_all_ranks(seconds: Mapping[str, float], comm: Comm) -> dict[str, float]:
    """Return how long the slowest and the mean rank take for training and refresh. Collective.

    Without the gradient exchange, where the faster ranks wait for the slower. Two allreduces of one number.

    Args:
        seconds: of this rank, by stage and part of training.
        comm: all ranks.
    """
    own = np.array([seconds["train"] + seconds["refresh"] - seconds["gradient_exchange"]])
    return {"slowest_rank": float(comm.max(own)[0]), "mean_rank": float(comm.sum(own)[0]) / comm.size}


class RankSeconds:
    """The file of a run: ``epoch`` (E,), ``stage`` (S,) names, ``seconds`` (E, ranks, S) float32."""

    def __init__(self, run: Path, comm: Comm) -> None:
        self._path, self._comm = run / "rank_seconds.h5", comm
        self._epochs: list[int] = []
        self._seconds: list[np.ndarray] = []

    def rewind(self, epoch: int) -> None:
        """Begin with what the file holds of earlier epochs, if there is one. On rank 0 alone."""
        import h5py

        try:
            with h5py.File(self._path, "r") as file:
                kept = file["epoch"][:] < epoch
                self._epochs, self._seconds = file["epoch"][kept].tolist(), list(file["seconds"][kept])
        except (OSError, KeyError):
            return

    def add(self, epoch: int, seconds: Mapping[str, float]) -> None:
        """Add an epoch of all ranks, whose stages are the same, and write the file anew. Collective.

        Raises:
            OSError: the disk did not take it; on rank 0, after all communication.
        """
        of_ranks = self._comm.collect(tuple(seconds.values()))
        if self._comm.rank:
            return
        self._epochs.append(epoch)
        self._seconds.append(np.array(of_ranks, np.float32))
        n_ranks = max(len(rows) for rows in self._seconds)  # a resumed run may have another number of them
        whole = np.full((len(self._epochs), n_ranks, len(seconds)), np.nan, np.float32)
        for row, rows in zip(whole, self._seconds, strict=True):
            row[: len(rows), : rows.shape[1]] = rows
        output = Hdf5(self._path)
        output.file["epoch"] = np.array(self._epochs, np.int32)
        output.file["stage"] = [name.encode() for name in seconds]
        output.file["seconds"] = whole
        output.close()
