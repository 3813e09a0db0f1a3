"""Ranks that are killed under ``launch --restarts``: the run ends with the bits that it would have had."""

import random

import pytest
from support.kills import JOB, killed_and_restarted, kills_of_launches, launched, left, undisturbed
from support.start_ranks import train

SHORT = [*JOB, "--set", "training.epochs=3"]


def test_a_killed_rank_costs_a_restart_and_not_a_bit(tmp_path):
    run, alone = tmp_path / "run", tmp_path / "undisturbed"
    assert train(2, *SHORT, "--run-dir", alone).returncode == 0
    strike = ["SIGKILL", 1, 1, "refresh", 0, tmp_path / "told"]
    done = launched("mpirun", 2, run, strike, *SHORT, "--restarts", 1)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "== restart 1 of 1, attempt 1 ended: rank 1 on " in done.stdout
    assert done.stdout.count("2 ranks on cpu") == 2
    ended, whole = left(run), left(alone)
    assert (ended["lines"], ended["files"]) == (whole["lines"], whole["files"])


@pytest.mark.nightly
@pytest.mark.parametrize("starter", ["mpirun", "torchrun"])
def test_kills_in_several_attempts_of_a_launch_cost_no_bit(starter, tmp_path):
    whole, draws = undisturbed(2, tmp_path / "whole", starter), random.Random(seed := random.randrange(1000))
    print(f"seed {seed}")
    for i, n_kills in enumerate(kills_of_launches()):
        run = tmp_path / f"run_{i}"
        print(*killed_and_restarted(starter, 2, run, whole, n_kills, draws), sep="\n")
