"""Trains like ``kakurenbo train``, but one rank comes to harm in its fifth step: argument 1 says how, 2 which
rank.
"""

import itertools
import os
import signal
import sys

from kakurenbo_hpc import cli
from kakurenbo_hpc.errors import DataError
from kakurenbo_hpc.training.learner import Learner

harm, victim = sys.argv[1], int(sys.argv[2])
sys.argv = ["kakurenbo", "train", *sys.argv[3:]]


step, numbers = Learner.step, itertools.count(1)


def harmed(self, batch):
    if next(numbers) == 5 and self._world.rank == victim:
        if harm == "exception":
            raise RuntimeError("the disk is on fire")
        if harm == "exit":
            sys.exit(3)
        if harm == "data":
            raise DataError("train/7.h5: vanished; put it back")
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch)


Learner.step = harmed
cli.main()
