"""Ranks that are killed under ``launch --restarts``: the run ends with the bits that it would have had."""

import subprocess
import sys

import pytest
from support.kills import JOB, STRUCK_TRAIN, left
from support.start_ranks import environment, train

SHORT = [*JOB, "--set", "training.epochs=3"]

LAUNCH = """
import sys
from pathlib import Path
from kakurenbo_hpc.cluster import launch

strike = sys.argv[1:7]
struck = lambda *args, **more: [sys.executable, {struck!r}, *strike, *train(*args, **more)[4:]]
train, launch.train_command = launch.train_command, struck
from kakurenbo_hpc import cli
sys.argv = ["kakurenbo", "launch", *sys.argv[7:]]
cli.main()
"""


def launched(starter_machine, run, strike, *words):
    """Launch the job on two ranks, one of which kills itself in the first attempt."""
    program = LAUNCH.format(struck=str(STRUCK_TRAIN))
    line = [sys.executable, "-c", program, *strike, run.with_suffix(".told"), *SHORT, "--run-dir", run]
    line += ["--ranks", 2, "--machine", starter_machine, *words]
    return subprocess.run(
        list(map(str, line)), env=environment(), capture_output=True, text=True, timeout=500
    )


@pytest.fixture
def machine(tmp_path):
    def write(starter):
        path = tmp_path / f"{starter}.yaml"
        path.write_text(f"name: {starter}\nstarter: {starter}\n")
        return path

    return write


@pytest.mark.parametrize("starter", ["mpirun", pytest.param("torchrun", marks=pytest.mark.nightly)])
def test_a_killed_rank_costs_a_restart_and_not_a_bit(starter, machine, tmp_path):
    run, alone = tmp_path / "run", tmp_path / "undisturbed"
    assert train(2, *SHORT, "--run-dir", alone).returncode == 0
    done = launched(machine(starter), run, ["SIGKILL", 1, 1, "refresh", 0], "--restarts", 1)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "== restart 1 of 1, attempt 1 ended: rank 1 on " in done.stdout
    assert done.stdout.count("2 ranks on cpu") == 2
    ended, whole = left(run), left(alone)
    if starter == "mpirun":  # other starters add gradients in another order
        assert (ended["lines"], ended["files"]) == (whole["lines"], whole["files"])
    assert [line["epoch"] for line in ended["lines"]] == [line["epoch"] for line in whole["lines"]]
