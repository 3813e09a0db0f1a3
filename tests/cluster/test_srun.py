"""Ranks that a real srun starts, with each of its plugins, and with the wrong MPI library."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.batch_runs import until
from support.environments import CHECKOUT, in_environment
from support.start_ranks import environment

from kakurenbo_hpc.cluster.launch import run
from kakurenbo_hpc.cluster.launchers import Layout, launcher_line
from kakurenbo_hpc.cluster.machine import Machine
from kakurenbo_hpc.errors import FAILED, REQUEUE

ENDS = Path(__file__).parent / "programs" / "ends.py"
TRAIN = ["-m", "kakurenbo_hpc.cli", "train", "digits_kakurenbo", "--set", "training.epochs=2", "--run-dir"]


def ran(slurm, env, *words):
    env = env | {"SLURM_CONF": str(slurm.conf)}
    return subprocess.run(list(map(str, words)), env=env, capture_output=True, text=True, timeout=180)


def test_pmi2_starts_ranks_of_mpich_on_two_nodes(slurm, mpich, tmp_path):
    env = in_environment(mpich, PYTHONPATH=str(CHECKOUT))
    done = ran(
        slurm,
        env,
        "srun",
        "--nodes=2",
        "--ntasks=2",
        "--mpi=pmi2",
        mpich / "bin" / "python",
        *TRAIN,
        tmp_path / "run",
    )
    assert done.returncode == 0, done.stderr
    assert "2 ranks on cpu" in done.stdout


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("wait for the file", REQUEUE, ""),  # which one does a second after the other
        ("raise", FAILED, "kakurenbo: rank 1 of 2 on here: OSError: the disk is on fire"),
        (
            "left alone",
            FAILED,
            "kakurenbo: rank 1 on n1: left with exit code 7 and without a message of ours; see above",
        ),
    ],
)
def test_ranks_leave_together_and_one_that_fails_ends_all(
    how, code, said, slurm, monkeypatch, tmp_path, capfd
):
    monkeypatch.setattr(os, "environ", environment() | {"SLURM_CONF": str(slurm.conf)})
    (tmp_path / "stop").touch()
    machine = Machine(name="here", scheduler="slurm", starter="srun", ranks_per_node=2)
    begun = time.monotonic()
    assert (
        run(
            launcher_line(machine, Layout(2, 1), [sys.executable, str(ENDS), how, str(tmp_path)]),
            tmp_path / "stop",
        )
        == code
    )
    assert time.monotonic() - begun < 120
    last = capfd.readouterr().err.splitlines()[-1]
    assert last == said or not said and "kakurenbo: " not in last


def test_ranks_that_do_not_see_each_other_say_so_and_stop(slurm, tmp_path):
    done = ran(
        slurm, environment(), "srun", "--ntasks=2", "--mpi=none", sys.executable, *TRAIN, tmp_path / "run"
    )
    assert done.returncode == 2
    [told] = [line for line in done.stderr.splitlines() if line.startswith("kakurenbo: ")]
    assert "started rank 0 of 2, but MPI says rank 0 of 1" in told and "srun --mpi=pmix (Open MPI)" in told
    assert not (tmp_path / "run").exists()


def test_a_plain_python_in_a_batch_script_of_many_tasks_is_one_rank(slurm, tmp_path):
    log = tmp_path / "log.txt"
    command = " ".join([sys.executable, *TRAIN, str(tmp_path / "run")]) + "; echo ended with $?"
    assert (
        ran(slurm, environment(), "sbatch", "--ntasks=4", f"--output={log}", f"--wrap={command}").returncode
        == 0
    )
    told = until(
        lambda: log.exists() and "ended with" in (text := log.read_text()) and text,
        lambda: slurm.say("squeue"),
    )
    assert "1 rank on cpu" in told and "ended with 0" in told
