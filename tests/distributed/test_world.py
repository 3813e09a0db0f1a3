"""A rank's share of its node: as many threads as cores are its own, or as OMP_NUM_THREADS says, if that is
less.
"""

import os
import subprocess
import sys

import pytest
import torch

from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.launch_env import NEEDS_GPU
from kakurenbo_hpc.distributed.world import World
from kakurenbo_hpc.errors import WorldError

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


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_rank_of_a_machine_with_gpus_that_sees_none_does_not_train_on_the_cpu(monkeypatch):
    monkeypatch.setenv(NEEDS_GPU, "1")  # by bind_rank, from the machine file
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(WorldError, match=r"GPUs, but torch sees none \(CUDA_VISIBLE_DEVICES=-1\)"):
        World.detect(SerialComm())
