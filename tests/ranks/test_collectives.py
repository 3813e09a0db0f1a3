"""Ranks talk as Comm promises, whoever started them."""

import time

import pytest
from support.collectives import check_collectives
from support.start_ranks import PROGRAMS, start

from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.launch_env import read_launch_env
from kakurenbo_hpc.distributed.world import check_size
from kakurenbo_hpc.errors import WorldError


@pytest.mark.ranks(3)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_collective_gives_numpys_answer(comm_of, n):
    if comm := comm_of(n):
        check_collectives(comm)


@pytest.mark.ranks(4)
def test_an_exchange_in_two_hops_is_an_exchange(comm):
    from kakurenbo_hpc.distributed.comm_mpi import MpiComm

    in_two_hops = MpiComm(comm.mpi, two_hops_from=4)
    check_collectives(in_two_hops)
    in_two_hops.close()


def test_every_collective_gives_numpys_answer_under_torchrun():
    done = start(3, PROGRAMS / "collectives.py", starter="torchrun")
    assert done.returncode == 0, done.stderr
    assert "3 ranks agree" in done.stdout


def test_ranks_that_mpi_does_not_see_are_named_with_the_usual_cause():
    """N singletons: the starter says two ranks, MPI says one."""
    done = start(1, "-c", SINGLETON)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "rank 0 of 2" in done.stderr and "rank 0 of 1" in done.stderr and "mpirun" in done.stderr


@pytest.mark.unit
def test_only_rank_0_of_ranks_that_mpi_does_not_see_speaks_and_the_others_let_it(monkeypatch, capfd):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with pytest.raises(SystemExit) as left:
        check_size(read_launch_env(srun("1", "2")), SerialComm())
    assert (left.value.code, waited, capfd.readouterr()) == (2, [5], ("", ""))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "rank", "size", "value"), [("PROCID", "abc", "2", "abc"), ("STEP_NUM_TASKS", "0", "", "")]
)
def test_a_rank_that_is_no_number_is_one_line(name, rank, size, value):
    advice = "unset it, or start with mpirun, srun or torchrun"
    told = f"SLURM_{name} is {value!r}, but a starter of ranks sets it to a number; {advice}"
    with pytest.raises(WorldError) as refused:
        read_launch_env(srun(rank, size))
    assert str(refused.value) == told


def srun(rank, size):
    """Return what srun tells a rank."""
    return {"SLURM_SRUN_COMM_HOST": "127.0.0.1", "SLURM_PROCID": rank, "SLURM_STEP_NUM_TASKS": size}


SINGLETON = f"""
import os, sys
os.environ |= {srun("0", "2")}
sys.argv = ["kakurenbo", "train", "digits_everything"]
from kakurenbo_hpc.cli import main
main()
"""
