"""Vectors of samples for tests of subsets: the worked example, and groups of them on any number of ranks."""

import numpy as np

from kakurenbo_hpc.core.rng import Stream
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.selection.subsets import SCORES
from kakurenbo_hpc.selection.subsets.scoring import Scores, residuals
from kakurenbo_hpc.selection.subsets.vectors import Group, Vectors

# Eight samples of three classes, of which none is of the last.
H = np.array([[1, 0], [0, 2], [3, 1], [2, 2], [0, 1], [4, 0], [1, 3], [2, 1]], float)
P = np.array(
    [
        [0.7, 0.2, 0.1],
        [0.5, 0.3, 0.2],
        [0.2, 0.5, 0.3],
        [0.6, 0.1, 0.3],
        [0.9, 0.05, 0.05],
        [0.3, 0.4, 0.3],
        [0.6, 0.3, 0.1],
        [0.2, 0.6, 0.2],
    ]
)
LABEL = np.array([0] * 5 + [1] * 3)


def vectors(h=H, p=P, label=LABEL):
    """Return rows with ids from 0."""
    return Vectors(np.arange(len(h)), np.asarray(label), h, residuals(p, label), p)


EXAMPLE = vectors()
CLASS_0 = EXAMPLE.take(LABEL == 0)


def scoring(name, **options):
    return SCORES[name](method=name, **options)


def group(rows=EXAMPLE, n_kept=None, comm=None, n=None, seed=0, judged=None):
    n = len(rows) if n is None else n
    return Group(rows, n, n if n_kept is None else n_kept, Stream(seed), comm or SerialComm(), judged)


def order(scores: Scores, n=None):
    """Return the rows in order of their places."""
    place = scores.place
    return [int(np.flatnonzero(place == k)[0]) for k in range(np.max(place) + 1)][:n]


def on_ranks(method, rows, cuts, n_kept, judged=None, ends=None):
    """Return what a method chooses where rows are cut over ranks at ``cuts``, and ``judged`` at ``ends``."""

    def work(comm):
        part, judges = (
            None if x is None else x.take(slice(at[comm.rank], at[comm.rank + 1]))
            for x, at in ((rows, cuts), (judged, ends))
        )
        return method.choose_all(group(part, n_kept, comm, len(rows), judged=judges))

    parts = run_in_threads(len(cuts) - 1, work)
    columns = [[getattr(one, name) for one in parts] for name in ("score", "place", "weight", "filled")]
    return Scores(*(None if column[0] is None else np.concatenate(column) for column in columns))
