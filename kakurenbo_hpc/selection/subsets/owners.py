"""Assignment of classes to ranks: which rank chooses within a class, and in which round, by class sizes."""

from __future__ import annotations

import numpy as np

from ...errors import JobError

_COPIES = 3  # of the rows of a round that a rank holds at most: sent, received, and those of one class


def assign_owners(sizes: np.ndarray, n_ranks: int) -> np.ndarray:
    """Return the owner of each class, (C,) int64: largest n_c^2 first, each to the rank with least so far.

    Args:
        sizes: (C,) int64, samples of each class.
        n_ranks: of which some own nothing where there are fewer classes.
    """
    owner, load = np.zeros(len(sizes), np.int64), [0] * n_ranks
    for number in np.argsort(-sizes, kind="stable").tolist():
        owner[number] = load.index(min(load))
        load[owner[number]] += int(sizes[number]) ** 2
    return owner


def plan_rounds(
    sizes: np.ndarray, owner: np.ndarray, row_bytes: int, matrices: int, memory_limit: float
) -> list[np.ndarray]:
    """Return the classes of each round, sorted: as many as fit into every owner's memory.

    Args:
        sizes: (C,) int64.
        owner: (C,) int64, a rank.
        row_bytes: of one sample's vectors.
        matrices: n_c x n_c float64 that are held for one class at a time.
        memory_limit: GiB.

    Raises:
        JobError: a class does not fit alone.
    """
    rounds: list[list[int]] = []
    filled: dict[tuple[int, int], int] = {}  # (rank, round) -> samples
    at = dict.fromkeys(owner.tolist(), 0)
    for number in np.flatnonzero(sizes).tolist():
        rank, n = int(owner[number]), int(sizes[number])
        check_memory(f"class {number} has {n} samples", n, row_bytes, matrices, memory_limit)
        most = (memory_limit * 2**30 - matrices * 8 * int(sizes.max()) ** 2) / (_COPIES * row_bytes)
        if filled.get((rank, at[rank]), 0) and filled[rank, at[rank]] + n > most:
            at[rank] += 1
        filled[rank, at[rank]] = filled.get((rank, at[rank]), 0) + n
        rounds += [[]] * (at[rank] + 1 - len(rounds))
        rounds[at[rank]] = [*rounds[at[rank]], number]
    return [np.array(classes, np.int64) for classes in rounds]


def check_memory(what: str, n: int, row_bytes: int, matrices: int, memory_limit: float) -> None:
    """Check that n samples' vectors, and matrices of all their pairs, fit into a rank's memory.

    Raises:
        JobError: they do not.
    """
    needed = (_COPIES * row_bytes * n + matrices * 8 * n**2) / 2**30
    if needed > memory_limit:
        raise JobError(
            f"vectors: {what}, which take {needed:.3g} GiB, but memory_limit is {memory_limit:g}; raise it "
            "(score: --option memory_limit=...), or choose a method that needs less"
        )
