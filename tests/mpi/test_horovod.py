"""Horovod averages what DDP averages, is left and taken up like it, and says what it lacks."""

from pathlib import Path

import pytest
from horovod_here import needs_horovod
from ranks import PROGRAMS, start, train

LEFT_AND_TAKEN_UP = PROGRAMS.parents[1] / "drills" / "programs" / "left_and_taken_up.py"
JOB = ("digits_everything", "--set", "world.gradients=horovod")


@needs_horovod
def test_two_ranks_train_as_with_ddp(tmp_path):
    done = start(2, PROGRAMS / "same_as_ddp.py", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(": the same") == 7


@needs_horovod
@pytest.mark.parametrize(
    ("ranks", "entries", "accumulate", "precision"),
    [
        (2, 50, 2, "fp16"),  # loss scaling
        (3, 50, 3, "fp32"),  # 17, 17 and 16 entries, each in three accumulated batches
        (3, 2, 1, "fp32"),  # one rank has nothing but a filler
    ],
)
def test_a_step_equals_the_serial_double_precision_step(ranks, entries, accumulate, precision):
    done = start(ranks, PROGRAMS / "one_step.py", entries, accumulate, precision, "horovod")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the same step" in done.stdout


@needs_horovod
def test_a_run_left_at_any_step_goes_on_bit_for_bit(tmp_path):
    done = start(3, LEFT_AND_TAKEN_UP, tmp_path, 2, "infobatch", "world.gradients=horovod", "training.accumulate=2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("left at call") == 2


def one_line(done, *words, code=2):
    assert done.returncode == code, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("kakurenbo: ")]
    assert len(told) == 1 and all(word in told[0] for word in words), done.stderr


def test_a_horovod_that_is_not_there_is_one_line_before_anything_is_trained(tmp_path, monkeypatch):
    (tmp_path / "horovod.py").write_text("raise ModuleNotFoundError(\"No module named 'horovod'\")\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    done = train(2, *JOB, "--run-dir", tmp_path / "run")
    one_line(done, "does not load here (No module named 'horovod')", "scripts/install_horovod.sh")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("starter", "found", "code"), [("alone", "this is one process alone", 2), ("torchrun", "torchrun started these", 1)]
)
def test_ranks_that_mpi_did_not_start_are_told(starter, found, code, tmp_path):
    done = train(2, *JOB, "--run-dir", tmp_path / "run", starter=starter)
    one_line(done, found, "start with mpirun or srun, or set it to ddp", code=code)


@needs_horovod
def test_an_mpi_that_takes_no_second_thread_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("MPI4PY_RC_THREAD_LEVEL", "serialized")
    one_line(train(2, *JOB, "--run-dir", tmp_path / "run"), "MPI_THREAD_MULTIPLE", "unset MPI4PY_RC_THREAD_LEVEL")


@needs_horovod
def test_two_mpi_libraries_in_one_process_are_told(mpich):
    [second] = Path(mpich).glob("lib/libmpi.so.12")
    code = f"""
import ctypes
from kakurenbo_hpc.job import WorldOptions
from kakurenbo_hpc.world.gradients import open_gradients
from kakurenbo_hpc.world.mpi import Mpi
from kakurenbo_hpc.world.world import settle
ctypes.CDLL({str(second)!r})
open_gradients(WorldOptions(gradients="horovod"), 1, settle(Mpi()))
"""
    done = start(1, "-c", code)
    assert "WorldError: two MPI libraries in one process" in done.stderr and str(second.resolve()) in done.stderr, done.stderr
