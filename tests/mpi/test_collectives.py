"""Ranks talk as Comm promises, whoever started them."""

import pytest
from ranks import PROGRAMS, start


@pytest.mark.parametrize(("starter", "n"), [("alone", 1), ("mpirun", 3), ("torchrun", 3)])
def test_every_collective_gives_numpys_answer(starter, n):
    done = start(n, PROGRAMS / "collectives.py", starter=starter)
    assert done.returncode == 0, done.stderr
    assert f"{n} ranks agree" in done.stdout


def test_ranks_that_mpi_does_not_see_are_named_with_the_usual_cause():
    """N singletons: the starter says two ranks, MPI says one."""
    done = start(1, "-c", SINGLETON)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "rank 0 of 2" in done.stderr and "rank 0 of 1" in done.stderr and "mpirun" in done.stderr


SINGLETON = """
import os, sys
os.environ["SLURM_SRUN_COMM_HOST"] = "127.0.0.1"
os.environ["SLURM_PROCID"], os.environ["SLURM_STEP_NUM_TASKS"] = "0", "2"
sys.argv = ["kakurenbo", "train", "digits_everything"]
from kakurenbo_hpc.cli import main
main()
"""
