"""A rank that is slower than the others is named, with host, stage and factor; others are not."""

import socket
import time

import numpy as np
import pytest
from support.runs import train_here

from kakurenbo_hpc.engine.stragglers import Straggler, find_straggler
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
