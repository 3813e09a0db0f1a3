"""Reading samples by id, as the tests of data sets do; and what must not change by it."""

import random

import numpy as np
import torch

from kakurenbo_hpc.data import DATASETS, open_data
from kakurenbo_hpc.data.dataset import ReadRequest
from kakurenbo_hpc.distributed.comm import SerialComm


def atoms(seed=0, run_seed=0, **options):
    """Open visual atoms, small unless told otherwise. seed: of the data set."""
    small = {"name": "visual_atoms", "classes": 10, "instances": 30, "validation": 4, "pixels": 16}
    return open_data(DATASETS["visual_atoms"](**{**small, **options}, seed=seed), run_seed, SerialComm())


def read(source, id, epoch=0, augment=True, copy=0):
    """Return input and target of these ids."""
    id = np.asarray(id)
    return source.__getitems__(ReadRequest(id, np.full(len(id), copy, np.int32), epoch, augment))


def images(source, id, **how):
    return read(source, id, **how)[0]


def random_states():
    """Return the global generators' states, as something that can be compared."""
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


def of_process(words):
    """Read in a fresh process, for pools: (source, ids, epoch) -> bytes."""
    source, id, epoch = words
    torch.manual_seed(99)
    return images(source, id, epoch=epoch).numpy().tobytes()
