"""Check of a data set: every sample is read once, and what cannot be read is named."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ...config.data_options import DataOptions
from ...errors import DataError
from ...rundir.console import bar
from ..dataset import Dataset, ReadRequest

_ROWS = 64  # that a thread reads before it takes others


def faults(options: DataOptions) -> Iterator[str | None]:
    """Yield what is wrong with each sample of both splits, None if nothing is; all cores of this node read.

    Raises:
        DataError: the data set cannot be opened.
    """
    splits = options.open()
    importlib.import_module("torch")  # once, before several threads do
    for part in (splits.train, splits.validation):
        blocks = [range(first, min(first + _ROWS, len(part))) for first in range(0, len(part), _ROWS)]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            read = pool.map(lambda rows, part=part: [_fault(part, row) for row in rows], blocks)
            for found in bar(read, len(blocks), "check"):
                yield from found


def _fault(part: Dataset, row: int) -> str | None:
    try:
        part.__getitems__(ReadRequest(np.array([row]), np.zeros(1, np.int32), 0, augment=False))
    except DataError as problem:
        return str(problem)
    except OSError as problem:
        return f"{problem.filename}: cannot be read ({problem.strerror}); put it back"
    return None
