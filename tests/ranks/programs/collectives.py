"""Every collective of the Comm of whoever started these ranks, against numpy."""

import sys
from pathlib import Path

from kakurenbo_hpc.distributed.world import open_comm

sys.path.insert(0, str(Path(__file__).parents[2]))

from support.collectives import check_collectives

comm = open_comm()
check_collectives(comm)
if comm.rank == 0:
    print(f"{comm.size} ranks agree")
comm.close()
