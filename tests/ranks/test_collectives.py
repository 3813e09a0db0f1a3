"""Ranks talk as Comm promises, whoever started them."""

import pytest
from support.start_ranks import PROGRAMS, start


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


def test_only_rank_0_of_ranks_that_mpi_does_not_see_speaks_and_the_others_let_it():
    done = start(1, "-c", SINGLETON.replace('"0", "2"', '"1", "2"').replace("import os, sys", WAITED))
    assert (done.returncode, done.stdout, done.stderr) == (2, "waited 5\n", "")


@pytest.mark.parametrize(("name", "value"), [("PROCID", "abc"), ("STEP_NUM_TASKS", "")])
def test_a_rank_that_is_no_number_is_one_line(name, value):
    done = start(1, "-c", SINGLETON.replace("sys.argv", f"os.environ['SLURM_{name}'] = '{value}'\nsys.argv"))
    assert done.returncode == 2
    advice = "unset it, or start with mpirun, srun or torchrun"
    told = f"kakurenbo: SLURM_{name} is {value!r}, but a starter of ranks sets it to a number; {advice}"
    assert done.stderr == told + "\n"


WAITED = """
import os, sys, time
time.sleep = lambda seconds: print("waited", seconds)
"""
SINGLETON = """
import os, sys
os.environ["SLURM_SRUN_COMM_HOST"] = "127.0.0.1"
os.environ["SLURM_PROCID"], os.environ["SLURM_STEP_NUM_TASKS"] = "0", "2"
sys.argv = ["kakurenbo", "train", "digits_everything"]
from kakurenbo_hpc.cli import main
main()
"""
