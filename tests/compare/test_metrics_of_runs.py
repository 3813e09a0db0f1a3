"""The protocol's figures on curves whose answers are known, and against slow answers in plain Python."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from kakurenbo_hpc.compare.metrics import (  # fmt: skip
    Curve,
    accuracy_at,
    best,
    cost_to_error,
    differs,
    final,
    mean_curve,
    pareto_shares,
    speed_up,
    spread,
)


def curve(accuracy, steps=10, seconds=1.0, forward=100):
    """Epochs of equal cost."""
    each = np.arange(1, len(accuracy) + 1)
    return Curve(
        np.array(accuracy, float),
        each * float(steps),
        each * float(forward),
        each * 50.0,
        each * float(seconds),
    )


BASE = curve([0.5, 0.7, 0.8, 0.79])


def test_a_method_that_gets_there_in_half_the_steps_is_twice_as_fast():
    assert speed_up(curve([0.5, 0.7, 0.8, 0.8], steps=5), BASE, 0.0) == 2.0
    assert speed_up(BASE, BASE, 0.0) == 1.0


def test_the_first_step_within_the_tolerance_counts():
    method = curve([0.69, 0.793, 0.796, 0.8])
    assert speed_up(method, BASE, 0.005) == 1.0
    assert speed_up(method, BASE, 0.01) == 1.5


def test_a_method_that_comes_later_than_the_baselines_best_step_has_no_speed_up():
    assert speed_up(curve([0.1, 0.2, 0.3, 0.9]), BASE, 0.0) is None
    assert speed_up(curve([0.9], steps=31), BASE, 0.0) is None
    assert speed_up(curve([0.9], steps=30), BASE, 0.0) == 1.0, "at the very step counts"


def test_the_cost_of_scores_is_added():
    late = curve([0.8], steps=10).after(steps=5, forward=7, backward=3, seconds=2.0)
    assert speed_up(late, BASE, 0.0) == 2.0
    assert (late.steps[0], late.forward[0], late.backward[0], late.seconds[0]) == (15, 107, 53, 3)


def test_best_is_the_highest_mean_and_not_the_mean_of_the_highest():
    runs = [curve([0.9, 0.5, 0.7]), curve([0.1, 0.6, 0.7])]
    assert best(runs).mean == pytest.approx(0.7)
    assert final(runs).mean == pytest.approx(0.7)


def test_cost_to_an_error_is_that_of_the_first_epoch_that_has_it():
    assert cost_to_error(BASE, 0.31, "steps") == 20
    assert cost_to_error(BASE, 0.5, "steps") == 10, "no larger is enough"
    assert cost_to_error(curve([0.5, 0.7, 0.8], seconds=2.5), 0.21, "seconds") == 7.5
    assert cost_to_error(BASE, 0.1, "steps") is None


def test_accuracy_at_equal_forward_passes_takes_only_whole_epochs():
    assert accuracy_at(BASE, 250) == 0.7 and accuracy_at(BASE, 300) == 0.8
    assert accuracy_at(BASE, 99) is None


def test_who_is_faster_at_every_error_has_the_whole_front():
    shares = pareto_shares({"slow": [BASE], "fast": [curve([0.5, 0.7, 0.8, 0.8], seconds=0.5)]})
    assert shares == {"slow": 0.0, "fast": 1.0}


def test_a_difference_is_noise_until_student_says_otherwise():
    a, b = [curve([x]) for x in (0.80, 0.82, 0.84)], [curve([x]) for x in (0.70, 0.72, 0.74)]
    gap, error, beyond = differs(a, b)
    assert gap == pytest.approx(0.1) and error == pytest.approx(0, abs=1e-12) and beyond, "paired by seed"
    assert not differs(a[:1], b[:1])[2], "one seed says nothing"
    gap, error, beyond = differs(
        [curve([x]) for x in (0.80, 0.82, 0.81)], [curve([x]) for x in (0.79, 0.79, 0.79)]
    )
    assert gap == pytest.approx(0.02) and error == pytest.approx(0.01 / math.sqrt(3)) and not beyond, (
        "3.5 errors of three"
    )


final_accuracies = st.lists(st.integers(0, 1000).map(lambda n: n / 1000), min_size=2, max_size=15)


@pytest.mark.filterwarnings("ignore:Precision loss occurred:RuntimeWarning")  # scipy's, of equal differences
@given(final_accuracies, final_accuracies)
@example([0, 0], [0.001, 0.001])
def test_what_is_beyond_noise_is_what_scipy_finds(a, b):
    gap, error, beyond = differs([curve([x]) for x in a], [curve([x]) for x in b])
    assert gap == pytest.approx(statistics.fmean(a) - statistics.fmean(b), abs=1e-12)
    if len(a) == len(b):
        low, high = stats.ttest_1samp(np.subtract(a, b), 0).confidence_interval(0.95)
    else:
        apart = math.hypot(*(statistics.stdev(x) / math.sqrt(len(x)) for x in (a, b)))
        low, high = (gap + sign * stats.t.ppf(0.975, min(len(a), len(b)) - 1) * apart for sign in (-1, 1))
    if error > 1e-9 and min(abs(low), abs(high)) > 1e-3 * error:  # the table of quantiles has three digits
        assert beyond == (low > 0 or high < 0)


values = st.lists(st.floats(0, 1), min_size=1, max_size=6)
grid = st.integers(0, 20).map(lambda n: n / 20)


@given(values)
def test_spread_is_that_of_the_statistics_module(given_values):
    told, n = spread(given_values), len(given_values)
    assert told.mean == pytest.approx(statistics.fmean(given_values))
    assert told.std == pytest.approx(statistics.stdev(given_values) if n > 1 else 0, abs=1e-9)
    ordered = sorted(given_values)
    for told_at, share in ((told.p16, 0.16), (told.p84, 0.84)):
        place = share * (n - 1)
        low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
        assert told_at == pytest.approx(low + (high - low) * (place - math.floor(place)), abs=1e-12)


@st.composite
def curves(draw, n_epochs=None):
    n = n_epochs or draw(st.integers(1, 8))
    costs = [
        np.cumsum(draw(st.lists(st.integers(1, 5), min_size=n, max_size=n))).astype(float) for _ in range(4)
    ]
    return Curve(np.array(draw(st.lists(grid, min_size=n, max_size=n))), *costs)


@given(curves(), curves(), st.sampled_from([0.0, 0.05, 0.1]))
def test_speed_up_is_found_by_walking_through_the_steps(method, baseline, tolerance):
    highest = max(baseline.accuracy)
    t_b = next(t for t, a in zip(baseline.steps, baseline.accuracy) if a == highest)
    t_n = next(
        (t for t, a in zip(method.steps, method.accuracy) if a >= highest - tolerance and t <= t_b), None
    )
    assert speed_up(method, baseline, tolerance) == (None if t_n is None else t_b / t_n)


@given(st.integers(1, 5).flatmap(lambda n: st.lists(curves(n), min_size=1, max_size=4)))
def test_the_mean_curve_is_the_mean_of_each_epoch(runs):
    mean = mean_curve(runs)
    for epoch in range(len(mean.accuracy)):
        assert mean.accuracy[epoch] == pytest.approx(statistics.fmean(c.accuracy[epoch] for c in runs))
        assert mean.steps[epoch] == pytest.approx(statistics.fmean(c.steps[epoch] for c in runs))


@given(st.dictionaries(st.sampled_from("abc"), st.lists(curves(), min_size=1, max_size=3), min_size=1))
def test_the_front_is_what_no_other_point_beats(contenders):
    points = [
        (t, 1 - a, name)
        for name, runs in contenders.items()
        for c in runs
        for t, a in zip(c.seconds, c.accuracy)
    ]
    front = [
        p
        for p in points
        if not any((q[0] <= p[0] and q[1] < p[1]) or (q[0] < p[0] and q[1] <= p[1]) for q in points)
    ]
    shares = pareto_shares(contenders)
    assert sum(shares.values()) == pytest.approx(1)
    for name in contenders:
        assert shares[name] == pytest.approx(sum(p[2] == name for p in front) / len(front))
