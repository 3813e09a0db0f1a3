"""A disk that takes no more: the run goes on with the checkpoint before, says so, and loses no line of its
metrics.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from support.start_ranks import command, environment, start

from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.engine.run import run
from kakurenbo_hpc.rundir.atomic_io import Hdf5
from kakurenbo_hpc.selection import METHODS

DISK_FULL = Path(__file__).parent / "programs" / "disk_full.py"


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 8 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True
    ).returncode:
        pytest.skip("a file system can be mounted by root alone")
    yield folder
    subprocess.run(["umount", folder], check=True)


def outcome(run):
    lines = [json.loads(text)["epoch"] for text in (run / "metrics.jsonl").read_text().splitlines()]
    return lines, sorted(path.name for path in (run / "checkpoints").iterdir() if path.name != "best")


def warnings(ended, what="checkpoint"):
    return [line for line in ended.stdout.splitlines() if line.startswith(f"warning: {what}")]


def ledgers(run):
    return sorted(path.name for path in (run / "ledger").iterdir())


@pytest.mark.parametrize(
    ("n", "how", "reason"),
    [
        (2, "quota", "rank 1: File too large"),
        pytest.param(1, "full", "rank 0: No space left on device", marks=pytest.mark.unit),
    ],
)
def test_a_checkpoint_that_the_disk_refuses_is_left_out_and_the_run_goes_on(
    n, how, reason, tmp_path, request
):
    folder = request.getfixturevalue("small_disk") if how == "full" else tmp_path
    ended = start(n, DISK_FULL, folder, how, 2)
    assert ended.returncode == 0, ended.stderr[-2000:]
    (warning,) = warnings(ended)
    assert "epoch_0002 could not be written" in warning and reason in warning and "the run goes on" in warning
    assert outcome(folder / "run") == (
        [0, 1, 2, 3, 4],
        ["epoch_0000", "epoch_0001", "epoch_0003", "epoch_0004"],
    )
    refused = [
        "warning: the ledger file of epoch 2 could not be written (No space left on device); the run goes "
        "on without"
    ]
    assert warnings(ended, "the ledger file") == (refused if how == "full" else []), "rank 0 writes it"
    assert ledgers(folder / "run") == [f"epoch_{i:04d}.h5" for i in range(5) if how == "quota" or i != 2]


@pytest.mark.unit
def test_a_run_whose_last_checkpoint_is_refused_is_not_done(tmp_path):
    ended = start(1, DISK_FULL, tmp_path, "quota", "last")
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "the last checkpoint could not be written; make room and add --resume" in ended.stderr
    assert len(warnings(ended)) == 1
    assert warnings(ended, "metrics") == ["warning: metrics.jsonl lacks its last line: the disk is full"]
    assert outcome(tmp_path / "run")[1] == ["epoch_0000", "epoch_0001", "epoch_0002", "epoch_0003"]
    assert ledgers(tmp_path / "run") == ["epoch_0000.h5", "epoch_0001.h5", "epoch_0002.h5", "epoch_0003.h5"]


@pytest.mark.unit
def test_a_log_on_a_full_disk_ends_no_run_and_changes_no_exit_code(tmp_path):
    words = [
        *command("alone", 1),
        "-m",
        "kakurenbo_hpc.cli",
        "train",
        "digits_everything",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    buffered = {name: value for name, value in environment().items() if name != "PYTHONUNBUFFERED"}
    for setting, code in (("training={epochs: 1, global_batch: 120, lr: 0.1}", 0), ("training=nothing", 2)):
        with open("/dev/full", "w") as full:
            ended = subprocess.run(
                [*words, "--set", setting], env=buffered, stdout=full, stderr=full, timeout=180
            )
            assert ended.returncode == code
    assert outcome(tmp_path / "run") == ([0], ["epoch_0000"])


@pytest.mark.unit
@pytest.mark.parametrize("buffered", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["machines"], 1),
        (["submit", "digits_everything", "--machine", "slurm_v100", "--walltime", "1h", "--dry-run"], 1),
        (["launch", "digits_everything", "--dry-run"], 0),
    ],
    ids=["machines", "submit", "launch"],
)
def test_a_command_that_only_prints_fails_on_a_full_disk_and_launch_goes_on(words, code, buffered, tmp_path):
    given = {name: value for name, value in environment().items() if name != "PYTHONUNBUFFERED"} | buffered
    with open("/dev/full", "w") as full:
        line = [sys.executable, "-m", "kakurenbo_hpc.cli", *words]
        ended = subprocess.run(
            line, env=given, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert ended.returncode == code, ended.stderr
    told = [
        line
        for line in ended.stderr.splitlines()
        if not line.startswith(("would run: ", "nothing was submitted"))
    ]
    assert (
        told
        == ["kakurenbo: <stdout>: not all of it could be written (No space left on device)"][
            : 1 if code or not buffered else 0
        ]
    )


@pytest.mark.unit
def test_weights_and_ledger_that_cannot_be_written_are_warned_of_and_the_run_goes_on(tmp_path, capsys):
    sets = [
        "training={epochs: 1, global_batch: 120, lr: 0.1}",
        "selection={method: sample_importance}",
        "model.options={width: 2}",
    ]
    sets += ["record={ledger: true, weights_at: [0]}"]
    job = read_job(find_job("digits_kakurenbo"), sets, DATASETS, METHODS)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job.as_dict()))
    for name in ("weights", "ledger"):
        (tmp_path / name).write_text("a file, where the folder should be")
    assert run(job, tmp_path, SerialComm()) == 0
    told = capsys.readouterr().out
    assert (
        "warning: the ledger file of epoch 0 could not be written (File exists); the run goes on without\n"
        in told
    )
    assert f"warning: {tmp_path / 'weights' / 'epoch_0000.h5'}: cannot be written (File exists)" in told


@pytest.mark.unit
@pytest.mark.parametrize("room", [100, 3000, 1 << 20])
def test_an_hdf5_file_that_the_disk_does_not_take_is_an_error_and_not_there(room, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    written = Hdf5(tmp_path / "some.h5")
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        fill(written.file)
        with pytest.raises(OSError, match="File too large"):
            written.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
    again = Hdf5(tmp_path / "some.h5")
    fill(again.file)
    again.close()
    with h5py.File(tmp_path / "some.h5") as file:
        assert (file["fixed"][()] == np.arange(1 << 18)).all() and (
            file["growing"][()] == np.arange(1000)
        ).all()


def fill(file):
    file.create_dataset("fixed", (1 << 18,), np.int64)
    file.create_dataset("growing", (0,), np.int64, maxshape=(None,), chunks=(100,))
    for part in range(4):
        file["fixed"][part << 16 : part + 1 << 16] = np.arange(part << 16, part + 1 << 16)
        file["growing"].resize(250 * (part + 1), axis=0)
        file["growing"][-250:] = np.arange(250 * part, 250 * (part + 1))
