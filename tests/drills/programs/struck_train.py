"""Trains like ``kakurenbo train``, but one rank sends itself a signal, some time after it has come to a
stage.

Arguments: signal, rank, epoch, stage, seconds, a file, then those of ``train``. Rank, epoch, stage and
seconds are lists, with commas: a strike for each attempt of a launch. The file gets the moments (monotonic),
line by line, when a signal was sent, and when a later attempt came to its first stage.
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
from kakurenbo_hpc.rundir.timers import STAGES
from kakurenbo_hpc.rundir.watchdog.heartbeat import Heartbeat

number, *strikes, told = sys.argv[1:7]
attempt = max(1, Attempt.of_this_process(Path()).number)
rank = read_launch_env(os.environ).rank
of_attempts = dict(enumerate(zip(*(part.split(",") for part in strikes), strict=True), start=1))
victim, epoch, stage, after_s = of_attempts.get(attempt, ("-1", "-1", "", "0"))
enter, began = Heartbeat.enter, attempt == 1 or rank > 0


def tell():
    with open(told, "a") as file:
        file.write(f"{time.monotonic()}\n")


def strike():
    tell()
    os.kill(os.getpid(), signal.Signals[number])


def entered(self, number, name):
    global began
    enter(self, number, name)
    if not began and name in STAGES:
        began = True
        tell()
    if (rank, number, name) == (int(victim), int(epoch), stage):
        threading.Timer(float(after_s), strike).start()


Heartbeat.enter = entered
sys.argv = ["kakurenbo", "train", *sys.argv[7:]]
cli.main()
