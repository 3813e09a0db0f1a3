"""Trains like ``kakurenbo train``, but one rank sends itself a signal, some time after it has come to a
stage; of several attempts of a launch, in the first.

Arguments: signal, rank, epoch, stage, seconds, a file for the moment when it was sent (monotonic), then those
of ``train``.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from kakurenbo_hpc import cli
from kakurenbo_hpc.distributed.launch_env import read_launch_env
from kakurenbo_hpc.rundir.attempt import Attempt
from kakurenbo_hpc.rundir.watchdog.heartbeat import Heartbeat

number, victim, epoch, stage, after_s, told = sys.argv[1:7]
enter = Heartbeat.enter


def strike():
    Path(told).write_text(str(time.monotonic()))
    os.kill(os.getpid(), signal.Signals[number])


def entered(self, number, name):
    enter(self, number, name)
    is_first = Attempt.of_this_process(Path()).number < 2
    if is_first and (read_launch_env(os.environ).rank, number, name) == (int(victim), int(epoch), stage):
        threading.Timer(float(after_s), strike).start()


Heartbeat.enter = entered
sys.argv = ["kakurenbo", "train", *sys.argv[7:]]
cli.main()
