"""A rank that ends as its first word says, or waits for that; it needs no MPI, so it starts at once."""

import os
import signal
import sys
import time
from pathlib import Path

rank = next(
    os.environ[name]
    for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "RANK", "SLURM_PROCID")
    if name in os.environ
)
how = sys.argv[1]

if how.isdigit():
    if how == "2" and rank == "0":
        print("kakurenbo: jobs/x.yaml: epochs is 0, but must be at least 1", file=sys.stderr, flush=True)
        time.sleep(0.2)
    time.sleep(0.2)
    sys.exit(int(how))
if how == "words":
    Path(sys.argv[2], rank).write_text("\0".join([*sys.argv[3:], os.environ["OF_THE_MACHINE"]]))
    sys.exit(0)
if rank == "1" and how == "raise":
    print("kakurenbo: rank 1 of 2 on here: OSError: the disk is on fire", file=sys.stderr, flush=True)
    sys.exit(1)
if rank == "1" and how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if rank == "1" and how == "silent":
    os._exit(7)
if how == "left alone":
    os._exit(7) if rank == "1" else time.sleep(300)
if how in ("wait", "wait for the file"):
    Path(sys.argv[2], rank).touch()
while how == "wait for the file":
    if Path(sys.argv[2], "stop").exists():
        time.sleep(float(rank))  # ranks do not leave in the same moment
        sys.exit(75)
    time.sleep(0.05)
# Hydra ends the others of a rank that left only where MPI was started, so here they end by themselves.
time.sleep(30 if how == "wait" else 3)
