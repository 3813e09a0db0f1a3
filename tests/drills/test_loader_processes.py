"""Loader processes: they outlive what asks a run to leave, end with their rank, and are missed when they are
killed.
"""

import os
import signal
import subprocess
import time

import psutil
import pytest
import torch
from support.batch_runs import metrics, until
from support.start_ranks import command, environment, train

EPOCHS = 6
JOB = [
    "digits_kakurenbo",
    "--set",
    "data.workers=1",
    "--set",
    f"training.epochs={EPOCHS}",
    "--set",
    "selection.fraction_epochs=[0, 2, 4]",
    "--set",
    "record.ledger=false",
]
TRAIN = ["-m", "kakurenbo_hpc.cli", "train", *JOB]
HOST = os.uname().nodename


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    done = train(2, *JOB, "--run-dir", run, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return outcome(run)


def outcome(run):
    learner = torch.load(run / "checkpoints" / f"epoch_{EPOCHS - 1:04d}" / "learner.pt", weights_only=True)
    return metrics(run), {name: tensor.tolist() for name, tensor in learner["model"].items()}


def on_progress(run, whole):
    again = train(2, *JOB, "--run-dir", run, "--resume", timeout=400)
    assert again.returncode == 0, again.stderr[-3000:]
    return outcome(run) == whole


def begun(run):
    """Start the job on two ranks; return mpirun, and each rank with its loader processes, once the first
    epoch is over.
    """
    words = [*command("mpirun", 2), *TRAIN, "--run-dir", str(run)]
    started = subprocess.Popen(
        words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until(lambda: metrics(run) or started.poll() is not None, lambda: "no epoch has ended")
    below = psutil.Process(started.pid).children(recursive=True)
    ranks = [p for p in below if "kakurenbo_hpc.cli" in p.cmdline() and p.parent().name() == "prterun"]
    # A rank's child is the server of its loader processes, or the tracker of their semaphores.
    return started, [(rank, [p for server in rank.children() for p in server.children()]) for rank in ranks]


@pytest.mark.nightly
def test_all_processes_of_a_job_are_asked_to_leave_and_the_last_checkpoint_is_written(whole, tmp_path):
    started, ranks = begun(tmp_path / "run")
    for process in [p for rank, _ in ranks for p in [rank, *rank.children(recursive=True)]]:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            process.send_signal(number)
    told, _ = started.communicate(timeout=100)
    assert started.returncode == 75 and "add --resume to go on" in told, told
    assert len(metrics(tmp_path / "run")) < EPOCHS
    assert on_progress(tmp_path / "run", whole)


def test_a_loader_process_that_is_killed_ends_the_run(tmp_path):
    killed_loader(tmp_path / "run")


@pytest.mark.nightly
def test_a_run_that_lost_a_loader_process_goes_on_bit_for_bit(whole, tmp_path):
    killed_loader(tmp_path / "run")
    assert on_progress(tmp_path / "run", whole)


def killed_loader(run):
    """Kill a loader process of a run: it ends, and the last line says why."""
    started, ranks = begun(run)
    victim = ranks[1][1][0]
    victim.kill()
    _, told = started.communicate(timeout=60)
    assert started.returncode not in (0, 2, 75)
    last = [line for line in told.splitlines() if line.startswith("kakurenbo: ")][-1]
    assert (
        last.startswith("kakurenbo: rank ")
        and f"RuntimeError: loader process {victim.pid} has ended; " in last
    ), told


def test_loader_processes_end_with_a_rank_that_is_killed(tmp_path):
    started, ranks = begun(tmp_path / "run")
    processes = [p for rank, _ in ranks for p in [rank, *rank.children(recursive=True)]]
    assert all(loaders for _, loaders in ranks)
    ranks[0][0].kill()
    asked = time.monotonic()
    _, told = started.communicate(timeout=60)  # mpirun, too, waits for whoever holds the ranks' pipes
    assert started.returncode not in (0, 2, 75) and time.monotonic() - asked < 15, told
    assert not psutil.wait_procs(processes, timeout=15)[1]


@pytest.mark.nightly
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take /dev/shm away")
def test_without_shared_memory_ranks_read_by_themselves_and_say_so(whole, tmp_path):
    (tmp_path / "empty").mkdir()
    away = (
        f"mount --bind {tmp_path}/empty /dev/shm && mount -o remount,ro,bind /dev/shm && ! touch "
        '/dev/shm/file 2>/dev/null && exec "$@"'
    )
    words = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        away,
        "sh",
        *command("mpirun", 2),
        *TRAIN,
        "--run-dir",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    [told] = [line for line in done.stdout.splitlines() if line.startswith("warning: ")]
    assert (
        told
        == "warning: data.workers is 1, but worker processes need /dev/shm, which is missing; ranks read "
        "by themselves"
    )
    assert outcome(tmp_path / "run") == whole


def test_a_long_tmpdir_has_no_room_for_sockets_and_they_lie_elsewhere(tmp_path, monkeypatch):
    folder = tmp_path / ("t" * 130)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    words = ["--set", "training.epochs=1", "--set", "training.warmup_epochs=0", "--run-dir", tmp_path / "run"]
    done = train(1, *JOB, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(metrics(tmp_path / "run")) == 1
