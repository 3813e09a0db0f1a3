"""Prints the nodes of this job that two attempts would start on, the second once a file is there."""

import sys
import time
from pathlib import Path

from kakurenbo_hpc.cluster.allocation import Allocation
from kakurenbo_hpc.cluster.launchers.launcher import Layout
from kakurenbo_hpc.cluster.machine import read_machine

machine, run = Path(sys.argv[1]), Path(sys.argv[2])
allocation = Allocation.of_this_job(read_machine(str(machine)), run)
for nth in (1, 2):
    while nth == 2 and not (run / "go").exists():
        time.sleep(0.1)
    allocation.check(machine)
    print(f"attempt {nth}:", *allocation.choose(Layout(1, 1), nth, lambda n_ranks: True).hosts, flush=True)
print("ended", flush=True)
