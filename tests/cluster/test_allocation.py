"""Nodes of an attempt: the unfit are left out, spares taken in, else fewer ranks where they fit."""

import pytest

from kakurenbo_hpc.cluster.allocation import Allocation, TooFewNodes, _check
from kakurenbo_hpc.cluster.launch_checks import job_fits
from kakurenbo_hpc.cluster.launchers.launcher import Layout
from kakurenbo_hpc.cluster.machine import Machine
from kakurenbo_hpc.cluster.node_check import find_problems
from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.selection import METHODS

TWO = Layout(8, 2)


@pytest.mark.parametrize(
    ("hosts", "lost", "attempt", "chosen"),
    [
        ("", "", 1, TWO),
        ("a b", "", 1, TWO),  # all of them: the launcher finds them by itself
        ("a b", "", 2, Layout(8, 2, ("a", "b"), 2)),
        ("a b c", "", 1, Layout(8, 2, ("a", "b"))),
        ("a b c", "a", 2, Layout(8, 2, ("b", "c"), 2)),
        ("a b", "b", 2, Layout(4, 1, ("a",), 2)),
    ],
)
def test_spares_are_taken_in_and_else_fewer_ranks(hosts, lost, attempt, chosen, capsys):
    allocation = Allocation(None, tuple(hosts.split()))
    allocation.leave_out([*lost.split(), "elsewhere"], "its ranks gave no heartbeat")
    assert allocation.choose(TWO, attempt, lambda n_ranks: n_ranks == 4) == chosen
    assert allocation.n_missing == 8 - chosen.n_ranks
    said = f"node {lost} is left out: its ranks gave no heartbeat\n" if lost else ""
    assert capsys.readouterr().out == said


def test_the_batch_script_can_read_which_nodes_were_left_out(tmp_path):
    allocation = Allocation(None, ("a", "b", "c"), tmp_path)
    allocation.leave_out(["a"], "down")
    assert not list(tmp_path.iterdir()), "no batch script"
    (tmp_path / "batch").mkdir()
    allocation.leave_out(["c"], "no scratch")
    assert (tmp_path / "batch" / "lost_nodes").read_text() == "a,c\n"


def test_too_few_nodes_are_told():
    allocation = Allocation(None, ("a", "b"), lost={"a": "down"})
    with pytest.raises(TooFewNodes, match="^1 of the job's 2 nodes are left, and the run does not fit"):
        allocation.choose(TWO, 2, lambda n_ranks: False)


def test_ranks_that_start_here_have_no_nodes_to_choose():
    assert Allocation().choose(Layout(3), 2, lambda n_ranks: True) == Layout(3, attempt=2)


def test_a_node_whose_check_fails_says_why(monkeypatch):
    monkeypatch.setattr("kakurenbo_hpc.cluster.allocation._LIMIT_S", 0.5)
    assert _check(["sh", "-c", "echo fine"]) == "" == _check([])
    assert _check(["sh", "-c", "echo no scratch; echo noise >&2; exit 1"]) == "no scratch"
    assert _check(["sh", "-c", "exit 3"]) == "its check ended with 3"
    assert _check(["sleep", "5"]) == "no answer to a check in 0.5 s"


def test_a_node_is_checked_for_gpus_scratch_and_the_run_directory(tmp_path, monkeypatch):
    run = tmp_path / "run"
    (tmp_path / "file").touch()
    machine = Machine(name="m", starter="mpirun", scratch=f"{tmp_path}/file/scratch", gpus_per_node=4)
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'GPU 0: A'\necho 'GPU 1: B'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert list(find_problems(machine, run)) == [
        f"{run} is not seen there",
        f"scratch {tmp_path}/file/scratch cannot be written to",
        "nvidia-smi lists 2 of 4 GPUs",
    ]
    run.mkdir()
    assert list(find_problems(Machine(name="m", starter="mpirun", gpus_per_node=2), run)) == []


@pytest.mark.parametrize(
    ("sets", "n_ranks", "fits"),
    [
        ([], 4, True),
        ([], 7, True),
        ([], 61, False),
        (["training.lr_scaling=ranks"], 4, False),
        (["training.global_batch=null", "training.batch_per_rank=15"], 2, False),
        (["data.placement=local"], 4, True),
    ],
)
def test_a_run_goes_on_on_fewer_ranks_only_where_nothing_changes_by_it(sets, n_ranks, fits):
    job = read_job(find_job("digits_everything"), sets, DATASETS, METHODS)
    assert job_fits(job, n_ranks) == fits
