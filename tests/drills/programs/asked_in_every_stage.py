"""Sends every signal that asks a run to leave, twice, in every stage, to one rank or the other; each time the
run goes on.

Argument: a folder for the run directories, one a signal, named by it, and ``whole``, of the run that nobody
disturbs.
"""

import os
import signal
import sys
import traceback
from pathlib import Path

from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.core.signals import SIGNALS
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.distributed.world import open_comm
from kakurenbo_hpc.engine.run import run
from kakurenbo_hpc.errors import DONE, REQUEUE
from kakurenbo_hpc.rundir.timers import STAGES
from kakurenbo_hpc.rundir.watchdog.heartbeat import Heartbeat
from kakurenbo_hpc.selection import METHODS

SETS = [
    "training.epochs=6",
    "training.global_batch=120",
    "selection.fraction_epochs=[0]",
    "selection.confidence=0.3",
]
SETS += ["model.options={width: 4, norm: batch}", "record.ledger=false", "record.keep=6"]
folder, comm, enter, asked = Path(sys.argv[1]), open_comm(), Heartbeat.enter, {}


def entered(self, epoch, stage):
    enter(self, epoch, stage)
    if asked and comm.rank == epoch % comm.size and (epoch, stage) == (asked["epoch"], asked["stage"]):
        for _ in range(2):
            os.kill(os.getpid(), asked["signal"])


Heartbeat.enter = entered
job = read_job(find_job("digits_kakurenbo"), SETS, DATASETS, METHODS)
try:
    assert run(job, folder / "whole", comm) == DONE
    for number in SIGNALS:
        directory = folder / signal.Signals(number).name
        for epoch, stage in enumerate(STAGES):
            asked.update(epoch=epoch, stage=stage, signal=number)
            assert run(job, directory, comm, resume=epoch > 0) == REQUEUE, (directory, stage)
        asked.clear()
        assert run(job, directory, comm, resume=True) == DONE, directory
    comm.close()
except BaseException:
    traceback.print_exc()
    comm.abort(1)
