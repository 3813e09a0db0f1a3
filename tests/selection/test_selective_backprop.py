"""Selective-Backprop's selection of candidates, against Algorithms 1 and 2 of the paper."""

import numpy as np
import pytest

from kakurenbo_hpc.core.batch import Candidates
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.selection.global_stats import GlobalStats

EPOCH = Epoch(3, 10, seed=5)


def method(**options):
    return METHODS["selective_backprop"](method="selective_backprop", **options)


def candidates(loss, first=0):
    loss = np.asarray(loss, np.float32)
    return Candidates(np.arange(first, first + len(loss)), np.zeros(len(loss), np.int32), loss, {})


def by_the_paper(batches, R, beta, coin):
    """Algorithm 1's selection with Algorithm 2's probability: the batch's losses enter the history first."""
    history, chosen = [], []
    for batch in batches:
        history = (history + list(batch))[-max(R, len(batch)) :]  # of no batch a part alone
        for loss in batch:
            percentile = sum(h <= loss for h in history) / len(history)
            chosen.append(coin[len(chosen)] < percentile**beta)
        history = history[-R:]
    return chosen


@pytest.mark.parametrize(("R", "beta"), [(1024, 2.0), (7, 1.0), (50, 0.0), (20, 5.5)])
def test_the_choice_is_the_papers(R, beta):
    rng = np.random.default_rng(R)
    batches = [np.round(rng.exponential(size=n), 1).astype(np.float32) for n in (10, 10, 3, 10, 1, 30)]
    sb, state, got, first = method(history=R, beta=beta), None, [], 0
    state = sb.init_state()
    for batch in batches:
        choice, state = sb.select(EPOCH, candidates(batch, first), state, GlobalStats(SerialComm()))
        marks = np.zeros(len(batch), bool)
        marks[choice.rows] = True
        assert (choice.weight == 1).all(), "nothing is reweighted"
        got += marks.tolist()
        first += len(batch)
    coin = EPOCH.rng.uniform(np.arange(first), "selective_backprop")
    assert got == by_the_paper(batches, R, beta, coin)


def test_a_candidate_batch_larger_than_the_history_is_compared_with_all_of_itself():
    """Else its first losses, if they are lower than those in the history, could never be chosen."""
    sb = method(history=5, beta=1.0)
    times = np.zeros(20)
    for epoch in range(400):
        batch = candidates(np.arange(20.0))
        choice, state = sb.select(Epoch(epoch, 400, 1), batch, sb.init_state(), GlobalStats(SerialComm()))
        times[choice.rows] += 1
        assert state["history"].tolist() == [15, 16, 17, 18, 19]
    assert times / 400 == pytest.approx(np.arange(1, 21) / 20, abs=0.1) and times[0] > 0


@pytest.mark.parametrize("calculator", ["loss", "random"])
@pytest.mark.parametrize("selectivity", [0.25, 0.33, 0.5])
def test_selectivity_is_the_expected_share(selectivity, calculator):
    rng = np.random.default_rng(1)
    sb = method(selectivity=selectivity, calculator=calculator)
    state, n = sb.init_state(), 0
    for first in range(0, 40_000, 100):
        choice, state = sb.select(
            EPOCH, candidates(rng.exponential(size=100), first), state, GlobalStats(SerialComm())
        )
        n += len(choice.rows)
    assert n / 40_000 == pytest.approx(selectivity, abs=0.012)


def test_a_random_calculator_does_not_look_at_the_loss():
    sb = method(calculator="random")
    state, everyone = sb.init_state(), GlobalStats(SerialComm())
    one, _ = sb.select(EPOCH, candidates(np.arange(100)), state, everyone)
    other, _ = sb.select(EPOCH, candidates(-np.arange(100)), state, everyone)
    assert (one.rows == other.rows).all()


def test_a_global_history_is_the_same_on_all_ranks_and_a_ranks_own_is_not():
    def histories(scope):
        def work(comm):
            sb = method(history_scope=scope, history=8)
            _, state = sb.select(
                EPOCH, candidates([comm.rank] * 3, 3 * comm.rank), sb.init_state(), GlobalStats(comm)
            )
            return state["history"].tolist()

        return run_in_threads(3, work)

    assert histories("global") == [[0, 0, 1, 1, 1, 2, 2, 2]] * 3
    assert histories("rank") == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]


def test_a_nan_is_a_candidate_like_the_largest_loss_and_changes_no_other_choice():
    sb, everyone = method(beta=1.0), GlobalStats(SerialComm())
    loss = np.linspace(0, 1, 50)
    with_nan, with_inf = loss.copy(), loss.copy()
    with_nan[7], with_inf[7] = np.nan, np.inf
    one, _ = sb.select(EPOCH, candidates(with_nan), sb.init_state(), everyone)
    other, _ = sb.select(EPOCH, candidates(with_inf), sb.init_state(), everyone)
    assert (one.rows == other.rows).all() and 7 in one.rows


def test_selection_passes_come_every_nth_epoch_after_the_prime_ones():
    sb = method(stale=3, prime_epochs=2)
    assert [sb.selection_level(Epoch(e, 9, 0)) == "batch" for e in range(9)] == [
        False,
        False,
        True,
        False,
        False,
        True,
        False,
        False,
        True,
    ]


def test_the_history_begins_with_the_last_losses_of_the_prime_epochs_and_takes_none_of_stale_ones():
    sb = method(prime_epochs=1, stale=2, history=3)
    state = sb.on_epoch_trained(Epoch(0, 9, 0), np.arange(5, dtype=np.float32), sb.init_state())
    assert state["history"].tolist() == [2, 3, 4]
    assert sb.on_epoch_trained(Epoch(2, 9, 0), np.ones(5, np.float32), state)["history"].tolist() == [2, 3, 4]
