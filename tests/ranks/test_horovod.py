"""Horovod averages what DDP averages, is left and taken up like it, and says what it lacks."""

import pytest
import torch
from support.horovod_available import needs_horovod
from support.start_ranks import PROGRAMS, start, train

from kakurenbo_hpc.config.job import WorldOptions
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.distributed.gradient_sync import open_gradient_sync
from kakurenbo_hpc.distributed.world import World
from kakurenbo_hpc.errors import WorldError

LEFT_AND_TAKEN_UP = PROGRAMS.parents[1] / "drills" / "programs" / "left_and_taken_up.py"
JOB = ("digits_everything", "--set", "world.gradients=horovod")


@needs_horovod
@pytest.mark.parametrize(
    "cases",
    [
        ("accumulated", "graphs kept", "scaled loss", "compressed"),
        pytest.param(("weighted", "norms of gradients", "predivided"), marks=pytest.mark.nightly),
    ],
)
def test_two_ranks_train_as_with_ddp(cases, tmp_path):
    done = start(2, PROGRAMS / "same_as_ddp.py", tmp_path, *cases)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(": the same") == len(cases)


@needs_horovod
@pytest.mark.parametrize(
    ("ranks", "entries", "accumulate", "precision"),
    [
        pytest.param(2, 50, 2, "fp16", marks=pytest.mark.nightly),  # loss scaling
        pytest.param(3, 2, 3, "fp32", marks=pytest.mark.nightly),  # one rank has nothing but fillers
    ],
)
def test_a_step_equals_the_serial_double_precision_step(ranks, entries, accumulate, precision):
    done = start(ranks, PROGRAMS / "one_step.py", entries, accumulate, precision, "horovod")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the same step" in done.stdout


@needs_horovod
@pytest.mark.nightly
def test_a_run_left_at_any_step_goes_on_bit_for_bit(tmp_path):
    more = ["world.gradients=horovod", "training.accumulate=2"]
    done = start(3, LEFT_AND_TAKEN_UP, tmp_path, "infobatch", *more)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "left in checkpoint, evaluate, train" in done.stdout


def test_a_horovod_that_is_not_there_is_one_line_before_anything_is_trained(tmp_path, monkeypatch):
    (tmp_path / "horovod.py").write_text("raise ModuleNotFoundError(\"No module named 'horovod'\")\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    done = train(2, *JOB, "--run-dir", tmp_path / "run")
    assert done.returncode == 2, done.stderr
    [told] = [line for line in done.stderr.splitlines() if line.startswith("kakurenbo: ")]
    assert "does not load here (No module named 'horovod')" in told and "scripts/install_horovod.sh" in told
    assert not (tmp_path / "run").exists()


def opened_by(comm):
    return open_gradient_sync(
        WorldOptions(gradients="horovod"), 1, World(comm, "here", 0, 1, torch.device("cpu"))
    )


@pytest.mark.unit
def test_ranks_that_mpi_did_not_start_are_told():
    with pytest.raises(
        WorldError,
        match="works among MPI's ranks, but this is one process alone; start with mpirun or srun, or set it "
        "to ddp",
    ):
        opened_by(SerialComm())
    with pytest.raises(
        WorldError,
        match="works among MPI's ranks, but torchrun started these; start with mpirun or srun, or set it to "
        "ddp",
    ):
        run_in_threads(2, opened_by)


OPEN = """
import ctypes, sys
from kakurenbo_hpc.config.job import WorldOptions
from kakurenbo_hpc.distributed.gradient_sync import open_gradient_sync
from kakurenbo_hpc.distributed.comm_mpi import MpiComm
from kakurenbo_hpc.distributed.world import World
if sys.argv[1:]:
    ctypes.CDLL(sys.argv[1])
open_gradient_sync(WorldOptions(gradients="horovod"), 1, World.detect(MpiComm()))
"""


@needs_horovod
def test_an_mpi_that_takes_no_second_thread_is_told(monkeypatch):
    monkeypatch.setenv("MPI4PY_RC_THREAD_LEVEL", "serialized")
    told = start(1, "-c", OPEN).stderr.splitlines()[-1]
    assert "WorldError: " in told and "MPI_THREAD_MULTIPLE" in told and "unset MPI4PY_RC_THREAD_LEVEL" in told


@needs_horovod
@pytest.mark.cluster
def test_two_mpi_libraries_in_one_process_are_told(mpich):
    [second] = mpich.glob("lib/libmpi.so.12")
    told = start(1, "-c", OPEN, second).stderr.splitlines()[-1]
    assert "WorldError: two MPI libraries in one process" in told and str(second.resolve()) in told
