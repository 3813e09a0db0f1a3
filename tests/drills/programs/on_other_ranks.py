"""A run that some ranks leave in its second epoch and others take up: what each rank trains in each step, a
line of JSON a batch.

Arguments: the run directory; a name for these lines; after which step of that epoch to leave, -1 for none.
"""

import json
import sys
from pathlib import Path

from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.distributed.preemption import Preemption
from kakurenbo_hpc.distributed.world import open_comm
from kakurenbo_hpc.engine.run import run
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.training.learner import Learner

directory, part, leaves_after = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
SETS = [
    "training.epochs=3",
    "training.global_batch=120",
    "selection={method: kakurenbo, confidence: 0.2, fraction_epochs: [0]}",
]
SETS += ["model.options={width: 4, norm: batch}"]
comm = open_comm()
done = {"step": -1}


def step(self, batch, learn=Learner.step):
    micro_batch = batch.micro_batch
    with open(directory.parent / f"{part}_{comm.rank}.jsonl", "a") as file:
        file.write(
            json.dumps([self._epoch, micro_batch.step, micro_batch.id.tolist() if micro_batch.counts else []])
            + "\n"
        )
    done["step"] = micro_batch.step if self._epoch == 1 else -1
    return learn(self, batch)


def should_stop(self):
    self.why = "the drill" if done["step"] == leaves_after >= 0 else ""
    return bool(self.why)


Learner.step = step
Preemption.should_stop = Preemption.should_stop_now = should_stop
code = run(
    read_job(find_job("digits_kakurenbo"), SETS, DATASETS, METHODS),
    directory,
    comm,
    resume=directory.exists(),
)
comm.close()
sys.exit(code)
