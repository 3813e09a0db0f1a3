"""Small ledgers and plans for the examples of the methods' tests."""

import dataclasses

import numpy as np
import pytest

from kakurenbo_hpc.config.options import checked
from kakurenbo_hpc.core.ledger import Ledger
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.core.sample_stats import SampleStats
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.errors import JobError
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.selection.global_stats import GlobalStats


def method(name, **options):
    return METHODS[name](method=name, **options)


def ledger(method, loss, unseen=(), **columns):
    """All rows on one rank, seen in epoch 0 with these losses but for the unseen."""
    n = len(loss)
    rows = Ledger.unseen(n, 0, n, method.columns)
    seen_epoch = np.zeros(n, np.int32)
    seen_epoch[list(unseen)] = -1
    extra = {name: np.array(columns.get(name, first), first.dtype) for name, first in rows.extra.items()}
    loss = np.where(seen_epoch >= 0, np.array(loss, np.float32), np.float32(np.inf))
    return dataclasses.replace(rows, loss=loss, seen_epoch=seen_epoch, extra=extra)


def plan(method, rows, epoch=1, total=100, seed=0):
    return method.plan(Epoch(epoch, total, seed), rows, GlobalStats(SerialComm()))


def noted(rows, epoch, ids, loss, **extra):
    """The ledger after these samples were passed in this epoch."""
    ids, loss = np.array(ids, np.int64), np.array(loss, np.float32)
    extra = {name: np.array(column) for name, column in extra.items()}
    return rows.update(
        SampleStats(ids, loss, loss < 0, np.zeros_like(loss), np.arange(len(ids)), extra), epoch
    )


def after(method, rows, epoch, ids, loss, total=100, **extra):
    """The ledger at the end of an epoch that trained these samples."""
    rows = noted(rows, epoch, ids, loss, **extra)
    return rows.with_columns(method.update(Epoch(epoch, total, 0), rows, "epoch"))


def hidden(plan):
    return np.flatnonzero(plan.train == 0).tolist()


def refusal(name, **options):
    """The one line that a job with these options gets."""
    with pytest.raises(JobError) as problem:
        checked(METHODS[name], {"method": name, **options}, "job.yaml", "selection.")
    return str(problem.value)
