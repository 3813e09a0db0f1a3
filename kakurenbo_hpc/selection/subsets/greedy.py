"""Greedy selection: pick the sample of largest value, update every row, repeat; on one rank or several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from ...distributed.comm import Comm
from .vectors import Vectors

_MATRIX_BYTES = 1 << 30  # of products of all pairs, up to which they are computed at once


@dataclass(frozen=True)
class Pick:
    """A sample just picked.

    Attributes:
        row: its row on this rank, or -1 where another rank has it.
        vectors: itself, one row.
    """

    row: int
    vectors: Vectors


class Rule(ABC):
    """What a greedy order goes by: ``value`` (S,) float64, how good each row would be as the next pick."""

    value: np.ndarray

    @abstractmethod
    def add(self, pick: Pick) -> None:
        """Renew ``value`` after a pick."""


def greedy_order(rule: Rule, rows: Vectors, n_picks: int, comm: Comm) -> np.ndarray:
    """Return the place of each row, (S,) int64 from 0, -1 for rows not picked. Ties go to the smaller id.

    Two reductions and a broadcast of one row for each pick; none on one rank.

    Args:
        rule: of this rank's rows.
        rows: sorted by id, all of them finite.
        n_picks: at most as many as there are rows on all ranks.
        comm: the ranks that have rows.
    """
    place = np.full(len(rows), -1, np.int64)
    masked = np.zeros(len(rows))  # -inf where picked
    for number in range(n_picks):
        row = best_row(rule.value + masked, rows.id, comm)
        if row >= 0:
            place[row] = number
            masked[row] = -np.inf
        rule.add(Pick(row, share_row(rows, row, comm)))
    return place


def best_row(value: np.ndarray, ids: np.ndarray, comm: Comm) -> int:
    """Return the row of the largest (value, smallest id) of all ranks; -1 where another rank has it."""
    row = int(np.argmax(value)) if len(value) else -1
    if comm.size == 1:
        return row
    local = value[row] if row >= 0 else -np.inf
    best = comm.max(np.array([local]))[0]
    mine = int(ids[row]) if row >= 0 and local == best else np.iinfo(np.int64).max
    return row if comm.min(np.array([mine]))[0] == mine and row >= 0 else -1


def share_row(rows: Vectors, row: int, comm: Comm) -> Vectors:
    """Return the row that one rank has, on all ranks; the others have -1."""
    if comm.size == 1:
        return rows.take(slice(row, row + 1))  # type: ignore[arg-type]
    root = int(comm.max(np.array([comm.rank if row >= 0 else -1]))[0])
    return comm.broadcast(rows.take(np.array([row])) if row >= 0 else None, root)  # type: ignore[return-value]


class Products:
    """Inner products of all rows with a picked one; of a small class, those of all pairs at once."""

    def __init__(self, x: np.ndarray, comm: Comm):
        """Prepare.

        Args:
            x: (S, D), rows of ``exact.round_rows``.
            comm: the ranks that have rows.
        """
        self._x, self._matrix = x.astype(np.float64), None
        if comm.size == 1 and len(x) ** 2 * 8 <= _MATRIX_BYTES:
            self._matrix = self._x @ self._x.T

    def with_pick(self, row: int, vector: np.ndarray) -> np.ndarray:
        """Return (S,) float64.

        Args:
            row: of the pick here, or -1.
            vector: (1, D), the pick.
        """
        if self._matrix is not None:
            return self._matrix[row]
        return self._x @ vector[0].astype(np.float64)
