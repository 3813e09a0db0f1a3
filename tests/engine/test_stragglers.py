"""A rank that is slower than the others is named, with host, stage and factor; others are not."""

import socket
import time

import numpy as np
import pytest
from support.runs import lines, train_here

from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.preemption import Preemption
from kakurenbo_hpc.engine import run as engine_run
from kakurenbo_hpc.engine.stragglers import Straggler, find_straggler
from kakurenbo_hpc.errors import DONE, REQUEUE
from kakurenbo_hpc.training.learner import Learner

USUAL = [1.0, 10.0, 20.0]


@pytest.mark.parametrize(
    ("others", "slow", "found"),
    [
        (1, [1.0, 10.0, 45.0], Straggler(1, "backward", 45.0, 20.0)),
        (7, [1.0, 16.0, 20.0], Straggler(7, "forward", 16.0, 10.0)),
        (3, [9.0, 18.0, 20.0], Straggler(3, "reading", 9.0, 1.0)),
        (3, [1.0, 14.0, 29.0], None),  # less than half as long again
        (3, [3.0, 10.0, 20.0], None),  # three times as long, but nobody feels it
        (3, [1.0, 5.0, 20.0], None),  # faster
        (3, USUAL, None),
    ],
)
def test_the_greatest_excess_is_found_if_it_matters(others, slow, found):
    assert find_straggler(np.array([USUAL] * others + [slow])) == found
    if found is None:
        assert find_straggler(np.array([USUAL] * others + [slow]) / 1000) is None


def test_half_a_second_is_not_worth_a_line():
    assert find_straggler(np.array([[0.0, 0.1, 0.1], [0.0, 0.6, 0.1]])) is None


@pytest.mark.ranks(2)
def test_a_slow_rank_is_named_in_the_log(comm, tmp_path, monkeypatch, capsys):
    learn = Learner._backward

    def slow(learner, *words):
        time.sleep(0.2 * comm.rank)
        learn(learner, *words)

    monkeypatch.setattr(Learner, "_backward", slow)
    train_here("digits_everything", ["training.epochs=1", "training.warmup_epochs=0"], tmp_path, comm)
    said = f"epoch 1: rank 1 on {socket.gethostname()} was slower than the others: backward took "
    assert comm.rank or said in capsys.readouterr().out


def test_an_epoch_that_was_resumed_inside_counts_the_steps_since(tmp_path, monkeypatch):
    asked, counted = iter([False, True]), []
    sets = ["training={epochs: 2, global_batch: 10, lr: 0.01}", "model.options={width: 2}"]
    sets += ["data={name: visual_atoms, classes: 2, instances: 20, validation: 5, pixels: 16}"]

    def go(resume):
        return train_here("digits_everything", sets, tmp_path / "run", SerialComm(), resume=resume)

    with monkeypatch.context() as patched:
        patched.setattr(Preemption, "should_stop", lambda self: next(asked))
        assert go(resume=False) == REQUEUE
    monkeypatch.setattr(engine_run, "report_straggler", lambda parts, n, comm: counted.append(n) or "")
    assert go(resume=True) == DONE
    assert [line["steps"] for line in lines(tmp_path / "run")] == [4, 4] and counted == [2, 4]
