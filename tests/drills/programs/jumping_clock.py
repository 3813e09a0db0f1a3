"""Trains like ``kakurenbo train``, with an hour left, by a clock that jumps by days as soon as the first
epoch has begun.
"""

import os
import random
import sys
import time

from kakurenbo_hpc import cli
from kakurenbo_hpc.rundir.watchdog.heartbeat import Heartbeat

enter, right = Heartbeat.enter, time.time


def entered(self, epoch, stage):
    enter(self, epoch, stage)
    time.time = lambda: right() + random.choice([-1, 1]) * random.uniform(1, 5) * 86400


Heartbeat.enter = entered
os.environ["KAKURENBO_DEADLINE"] = str(right() + 3600)
sys.argv = ["kakurenbo", "train", *sys.argv[1:]]
cli.main()
