"""SPV on examples."""

import math
import statistics

import numpy as np
import pytest
from support.method_examples import after, ledger, method, plan, refusal


def test_the_weight_is_eq_6_of_the_history():
    m = method("spv", burn_in=0)
    histories = [[0.1, 0.9, 0.5], [0.3, 0.3, 0.3], [0.0, 1.0, 0.2]]
    rows = ledger(m, [1, 1, 1], unseen=range(3))
    for epoch in range(3):
        rows = after(m, rows, epoch, range(3), [1] * 3, probability=np.float32([h[epoch] for h in histories]))
    var = [statistics.variance(h) for h in histories]
    assert rows.extra["squares"] / 2 == pytest.approx(var) and rows.extra["n_noted"].tolist() == [3, 3, 3]
    seen = []
    drawn = lambda weight, *_: seen.append(weight) or plan(m, rows, 0)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kakurenbo_hpc.selection.methods.spv.draw_plan", drawn)
        plan(m, rows, 3)
    assert seen[0] == pytest.approx([math.sqrt(v + v**2 / 2) + 0.2 for v in var])


def test_the_burn_in_is_uniform_and_at_least_two_epochs_long():
    for burn_in, drawing in ((0, 2), (1, 2), (5, 5)):
        m = method("spv", burn_in=burn_in)
        rows = ledger(m, [1] * 60)
        assert np.all(plan(m, rows, drawing - 1).train == 1) and np.any(plan(m, rows, drawing).train != 1)


def test_a_nan_is_no_part_of_the_history():
    m = method("spv")
    rows = ledger(m, [1, 1], unseen=range(2))
    for epoch, p in enumerate([0.5, np.nan, 0.7]):
        rows = after(m, rows, epoch, [0], [1], probability=np.float32([p]))
    assert rows.extra["n_noted"].tolist() == [2, 0] and rows.extra["mean"][0] == pytest.approx(0.6)


def test_a_burn_in_beyond_the_run_is_a_warning():
    assert method("spv", burn_in=3).warnings(4) == []
    assert method("spv").warnings(10) == [
        "selection.burn_in is 10, but the run ends after 10 epochs: every epoch is uniform"
    ]


def test_a_wrong_option_is_one_line():
    assert "selection.epsilon is 0.0, but must be greater than 0" in refusal("spv", epsilon=0.0)
    assert "selection.burn_in is -1, but must be greater than or equal to 0" in refusal("spv", burn_in=-1)
