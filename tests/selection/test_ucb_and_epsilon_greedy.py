"""UCB and epsilon-greedy on examples: ten samples, losses 0 to 9 in every epoch by default."""

import numpy as np
import pytest
from support.method_examples import after, hidden, ledger, method, plan, refusal

LOSSES = np.arange(10.0)


def run(m, losses, seed=0):
    """Whom each epoch hides. losses: one row of ten for each epoch."""
    rows = ledger(m, [0] * 10, unseen=range(10))
    for epoch, loss in enumerate(losses):
        decided = plan(m, rows, epoch, seed=seed)
        yield hidden(decided)
        trained = np.flatnonzero(decided.train)
        rows = after(m, rows, epoch, trained, np.array(loss)[trained])


def test_ucb_hides_the_low_ones_and_chooses_anew_before_epochs_1_and_11():
    losses = [LOSSES] + [LOSSES + 20 * (LOSSES == 3)] * 11
    whom = list(run(method("ucb", fraction=0.4, c=0.0), losses))
    assert whom[0] == [] and whom[1:11] == [[0, 1, 2, 3]] * 10
    assert whom[11] == [0, 1, 2, 3]  # 3 was hidden all the time, so nobody knew
    losses = [LOSSES] + [LOSSES - 20 * (LOSSES == 9)] * 11
    assert list(run(method("ucb", fraction=0.4, c=0.0), losses))[11] == [0, 1, 2, 9]


def test_mean_and_variance_are_moving_averages():
    m = method("ucb", fraction=0.0, momentum=0.8)
    rows = ledger(m, [0], unseen=[0])
    for epoch, loss in enumerate([5, 10, np.nan, 0]):
        rows = after(m, rows, epoch, [0], [loss])
    # mean: 5, 6, 6, 4.8; variance: 0, 0.2 x 25, the same, 0.8 x 5 + 0.2 x 36
    assert rows.extra["mean"].tolist() == [pytest.approx(4.8)] and rows.extra["variance"].tolist() == [
        pytest.approx(11.2)
    ]


@pytest.mark.parametrize(
    ("c", "spread", "first"), [(0.0, "var", [1]), (1.0, "std", [0]), (0.1, "std", [1]), (0.1, "var", [0])]
)
def test_uncertainty_counts_c_times(c, spread, first):
    m = method("ucb", fraction=0.1, c=c, spread=spread)
    extra = {"mean": [5.0, 4.0] + [50.0] * 8, "variance": [0.0, 16.0] + [0.0] * 8}
    rows = after(m, ledger(m, [1] * 10, **extra), 20, [], [])
    assert hidden(plan(m, rows, 21)) == first


def test_neither_nan_nor_unseen_is_hidden():
    for name, options in (("ucb", {}), ("epsilon_greedy", {"epsilon": 0.0})):
        m = method(name, fraction=0.3, **options)
        rows = ledger(m, [0] * 10, unseen=range(10))
        rows = after(m, rows, 0, range(1, 10), [np.nan, np.inf, 3, 4, 5, 6, 7, 8, 9])
        assert hidden(plan(m, rows, 1)) == [3, 4, 5]


def test_epsilon_greedy_without_epsilon_keeps_the_largest_means():
    assert list(run(method("epsilon_greedy", fraction=0.4, epsilon=0.0), [LOSSES] * 3)) == [
        [],
        [0, 1, 2, 3],
        [0, 1, 2, 3],
    ]


def test_epsilon_greedy_gives_a_share_of_the_places_to_random_others():
    picks = set()
    for seed in range(20):
        _, first, second = run(method("epsilon_greedy", fraction=0.4, epsilon=0.5), [LOSSES] * 3, seed)
        assert (
            len(first) == 4 and set(first) < set(range(7)) and second == first
        )  # 6 places, 3 of them random
        picks.add(tuple(first))
    assert len(picks) > 5


def test_a_wrong_option_is_one_line():
    assert "selection.c is -1.0, but must be greater than or equal to 0" in refusal("ucb", c=-1.0)
    assert "selection.spread is 'range', but must be 'var' or 'std'" in refusal("ucb", spread="range")
    assert "selection.every is 0, but must be greater than or equal to 1" in refusal("ucb", every=0)
    assert "selection.momentum is 1.0, but must be less than 1" in refusal("epsilon_greedy", momentum=1.0)
    assert "selection.epsilon is 2.0, but must be less than or equal to 1" in refusal(
        "epsilon_greedy", epsilon=2.0
    )
