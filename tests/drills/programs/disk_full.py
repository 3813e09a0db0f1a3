"""A run whose disk takes nothing more while one epoch's checkpoint, ledger file and metrics are written, and
more again after that.

Arguments: a folder for the run directory; ``quota``, the last rank's files may not grow beyond a kilobyte, or
``full``, the disk that the folder is on is filled; the epoch, from 0, or ``last``.
"""

import resource
import sys
from pathlib import Path

from kakurenbo_hpc.cli.ranks import run_on_ranks
from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.distributed.preemption import Preemption
from kakurenbo_hpc.engine import run
from kakurenbo_hpc.selection import METHODS

EPOCHS = 5
folder, how = Path(sys.argv[1]), sys.argv[2]
refused = EPOCHS - 1 if sys.argv[3] == "last" else int(sys.argv[3])
SETS = [
    f"training.epochs={EPOCHS}",
    "selection={method: kakurenbo, fraction_epochs: [0]}",
    "model.options={width: 8}",
    "record={keep: 9, ledger: true}",
]
filling = folder / "filling"
ended = {"epochs": 0}


def fill():
    with open(filling, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                pass


def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def epoch_ended(self, asked=Preemption.should_stop_now):
    """Called on all ranks after every epoch, before its checkpoint: the disk is full from one call to the
    next.
    """
    number, first, last = ended["epochs"], self._comm.rank == 0, self._comm.rank == self._comm.size - 1
    ended["epochs"] += 1
    if how == "full" and number == refused and first:
        fill()
    if how == "full" and number == refused + 1 and first:
        filling.unlink()
    if how == "quota" and last:
        limit(1024 if number == refused else resource.RLIM_INFINITY)
    self._comm.barrier()
    return asked(self)


Preemption.should_stop_now = epoch_ended
sys.exit(
    run_on_ranks(
        lambda comm: run.run(
            read_job(find_job("digits_kakurenbo"), SETS, DATASETS, METHODS), folder / "run", comm
        )
    )
)
