"""Trains like ``kakurenbo train digits_kakurenbo``, but with NaN where argument 1 says so.

``samples``: in three images. ``some steps``: in the last rank's gradient of three steps of the third epoch;
``all steps``: of all from there on, while the checkpoint before them is not written yet.
"""

import sys
import threading

import torch

from kakurenbo_hpc import cli
from kakurenbo_hpc.data.datasets.digits import Digits
from kakurenbo_hpc.errors import TrainingError
from kakurenbo_hpc.rundir.checkpoint import async_writer as saving
from kakurenbo_hpc.training.learner import Learner

harm = sys.argv[1]
opened, step = Digits.open, Learner.step


def spoilt(self, directory=None):
    data = opened(self, directory)
    data.train._images[[3, 700, 1400], 0, 4, 4] = float("nan")
    return data


def harmed(self, batch):
    parameter = next(self.model.parameters())
    good = (
        self._epoch < 2
        or self._world.rank < self._world.size - 1
        or harm == "some steps"
        and (self._epoch, batch.micro_batch.step) not in BAD
    )
    hook = parameter.register_hook(lambda gradient: gradient if good else gradient * torch.nan)
    try:
        return step(self, batch)
    except TrainingError:
        ended.set()
        raise
    finally:
        hook.remove()


def late(*words, write=saving.write_shards):
    """Write the second epoch's checkpoint when the run has already failed."""
    if words[0].name == ".epoch_0001.part":
        ended.wait(60)
    return write(*words)


ended = threading.Event()
BAD = {(2, 2), (2, 3), (2, 7)}
if harm == "samples":
    Digits.open = spoilt
else:
    Learner.step = harmed
if harm == "all steps":
    saving.write_shards = late
sys.argv = ["kakurenbo", "train", "digits_kakurenbo", *sys.argv[2:]]
cli.main()
