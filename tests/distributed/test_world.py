"""A rank's share of its node: as many threads as cores are its own, or as OMP_NUM_THREADS says, if that is
less.
"""

import os
import subprocess
import sys

import pytest

ASK = """
import torch
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.world import World
World.detect(SerialComm())
print(torch.get_num_threads())
"""


@pytest.mark.parametrize(
    ("asked", "n"), [("1", 1), ("9999", len(os.sched_getaffinity(0))), ("many", len(os.sched_getaffinity(0)))]
)
def test_a_rank_takes_no_more_threads_than_it_is_asked_to(asked, n):
    told = subprocess.run(
        [sys.executable, "-c", ASK],
        env=os.environ | {"OMP_NUM_THREADS": asked},
        capture_output=True,
        text=True,
    )
    assert told.stdout.strip() == str(n), told.stderr
