"""Ledger: each rank's rows of per-sample statistics, and the home rank of every id."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from .sample_stats import SampleStats

_COLUMNS = ("loss", "correct", "confidence", "seen_epoch")
BLOCKS = 1 << 20
"""Fixed, so that a block never straddles two homes however many ranks there are; named by checkpoints."""


@dataclass(frozen=True)
class Homes:
    """Home rank of every id: n ids in min(n, BLOCKS) fixed blocks, which are dealt to ranks in order."""

    n: int
    n_ranks: int

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return max(1, min(self.n, BLOCKS))

    def rows(self, rank: int) -> tuple[int, int]:
        """Return the half-open range of ids whose home is this rank."""
        first, last = (r * self.n_blocks // self.n_ranks for r in (rank, rank + 1))
        return first * self.n // self.n_blocks, last * self.n // self.n_blocks

    @cached_property
    def starts(self) -> np.ndarray:
        """(n_ranks + 1,) int64: where each rank's ids begin, and n at the end."""
        return np.array([self.rows(rank)[0] for rank in range(self.n_ranks)] + [self.n], np.int64)

    def of(self, ids: np.ndarray) -> np.ndarray:
        """Return the home rank of each id, (k,) int64."""
        return np.searchsorted(self.starts, ids, side="right") - 1


@dataclass(frozen=True)
class Ledger:
    """One rank's rows: ids ``start`` to ``start + S``, S rows, no id stored.

    Attributes:
        n_total: samples of the whole data set.
        start: first id.
        loss: (S,) float32, training criterion at the sample's last forward pass, before weights; +inf if
            unseen.
        correct: (S,) bool.
        confidence: (S,) float32, largest class probability.
        seen_epoch: (S,) int32, epoch of that pass; -1 if the sample was never seen.
        extra: further columns, which the method declares: (S,), or (S, J) of width J.
    """

    n_total: int
    start: int
    loss: np.ndarray
    correct: np.ndarray
    confidence: np.ndarray
    seen_epoch: np.ndarray
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def unseen(cls, n_total: int, start: int, stop: int, columns: Mapping[str, tuple] = {}) -> Ledger:
        """Return rows of samples that were never seen.

        Args:
            n_total: samples of the whole data set.
            start: first id.
            stop: id after the last.
            columns: name -> (dtype, first value); ``np.dtype((np.float32, J))`` makes a column of width J.
        """
        n = stop - start
        return cls(
            n_total=n_total,
            start=start,
            loss=np.full(n, np.inf, np.float32),
            correct=np.zeros(n, bool),
            confidence=np.zeros(n, np.float32),
            seen_epoch=np.full(n, -1, np.int32),
            extra={name: np.full(n, first, dtype) for name, (dtype, first) in columns.items()},
        )

    @classmethod
    def of(cls, n_total: int, start: int, columns: Mapping[str, np.ndarray]) -> Ledger:
        """Return the ledger with these columns, named as ``columns`` names them."""
        own = {name: columns[name] for name in _COLUMNS}
        extra = {name.removeprefix("extra_"): column for name, column in columns.items() if name not in own}
        return cls(n_total, start, **own, extra=extra)

    def columns(self) -> dict[str, np.ndarray]:
        """Return all columns, S rows each, by their names in files: a method's own begin with ``extra_``."""
        own = {name: getattr(self, name) for name in _COLUMNS}
        return own | {f"extra_{name}": column for name, column in self.extra.items()}

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def id(self) -> np.ndarray:
        """Ids, (S,) int64."""
        return np.arange(self.start, self.start + len(self), dtype=np.int64)

    @property
    def rows(self) -> range:
        """Ids as a range, which takes no memory."""
        return range(self.start, self.start + len(self))

    @property
    def seen(self) -> np.ndarray:
        """Whether each sample was seen, (S,) bool."""
        return self.seen_epoch >= 0

    def update(self, stats: SampleStats, epoch: int) -> Ledger:
        """Return the ledger after these statistics of its ids; of several of one id the latest wins."""
        rows, kept = _latest(stats.id - self.start, stats.position)
        columns = {name: getattr(self, name).copy() for name in _COLUMNS}
        for name in ("loss", "correct", "confidence"):
            columns[name][rows] = getattr(stats, name)[kept]
        columns["seen_epoch"][rows] = epoch
        extra = dict(self.extra)
        for name in stats.extra.keys() & extra.keys():
            extra[name] = extra[name].copy()
            extra[name][rows] = stats.extra[name][kept]
        return dataclasses.replace(self, **columns, extra=extra)

    def with_columns(self, changed: Mapping[str, np.ndarray]) -> Ledger:
        """Return the ledger with some of the method's own columns replaced."""
        return dataclasses.replace(self, extra={**self.extra, **changed}) if changed else self


def ids_at(ids: np.ndarray | range, rows: np.ndarray) -> np.ndarray:
    """Return the ids of some rows, (k,) int64; ids: of all rows, (S,) int64 or a range."""
    return ids.start + rows if isinstance(ids, range) else ids[rows]


def _latest(rows: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows, and for each the index of its entry with the largest position."""
    order = np.lexsort((position, rows))
    last_of_row = np.append(np.diff(rows[order]) != 0, True)[: len(rows)]
    kept = order[last_of_row]
    return rows[kept], kept
