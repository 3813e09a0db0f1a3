"""Gradients of fixed batches of consecutive ids, and the inner products of those of all ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...distributed.comm import Comm, SerialComm
from .exact import round_rows, sum_products
from .vectors import Vectors


@dataclass(frozen=True)
class Batches:
    """The batches of some rows, in order; batch b has the ids from b times its size on.

    Attributes:
        number: (n,) int64.
        of_row: (S,) int64, the position in ``number`` of each row's batch.
        size: (n,) int64, rows of each.
    """

    number: np.ndarray
    of_row: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray, size: int) -> Batches:
        """Return the batches of these ids, (S,) int64, sorted."""
        return cls(*np.unique(ids // size, return_inverse=True, return_counts=True))

    def mean_gradients(self, rows: Vectors, with_input: bool) -> np.ndarray:
        """Return R_b^T [H_b; 1] / B of each batch, or R_b^T 1 / B; (n, C (D + 1)), by ``round_rows``."""
        n_inputs = (rows.h.shape[1] if with_input else 0) + 1
        found = np.empty((len(self.size), rows.r.shape[1] * n_inputs), np.float32)
        for number, last in enumerate(np.cumsum(self.size).tolist()):
            batch = slice(last - int(self.size[number]), last)
            h = np.ones((int(self.size[number]), n_inputs))
            h[:, :-1] = rows.h[batch, : n_inputs - 1]
            found[number] = sum_products(rows.r[batch], h, SerialComm()).ravel() / len(h)
        return round_rows(found)


def gram_of_all(vectors: np.ndarray, comm: Comm) -> np.ndarray:
    """Return the inner products of all ranks' vectors, (n, n) float64, on every rank, in order of ranks.

    Each rank's vectors are broadcast once.

    Args:
        vectors: (k, E) float32, rows of ``exact.round_rows``.
        comm: the ranks that have some.
    """
    own = vectors.astype(np.float64)
    products = [own @ comm.broadcast(vectors, root).astype(np.float64).T for root in range(comm.size)]
    return np.concatenate(comm.gather(np.hstack(products)))
