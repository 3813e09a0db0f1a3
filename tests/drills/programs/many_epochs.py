"""A tiny job of many epochs, which prints its resident memory in bytes after some of them.

Arguments: a folder for the run directory; epochs; every how many epochs to print.
"""

import os
import sys
from pathlib import Path

from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.engine.run import run
from kakurenbo_hpc.rundir.console import Console
from kakurenbo_hpc.selection import METHODS

folder, epochs, every = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
SETS = [
    f"training.epochs={epochs}",
    "training.global_batch=8",
    "training.schedule=constant",
    "training.warmup_epochs=0",
    "data={name: visual_atoms, classes: 2, instances: 10, validation: 2, pixels: 16}",
    "model.options={width: 2}",
    "selection={method: kakurenbo, fraction_epochs: [0]}",
    "record={checkpoint_every: 20}",
]


def print_error(self, line):
    if (line["epoch"] + 1) % every == 0:
        print(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"), flush=True)


Console.epoch = print_error
run(read_job(find_job("digits_kakurenbo"), SETS, DATASETS, METHODS), folder, SerialComm())
