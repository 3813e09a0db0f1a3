"""Sample importance in SGD on examples: four samples."""

import numpy as np
import pytest
from support.method_examples import after, ledger, method, noted, plan, refusal

from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.selection import sampling as weights
from kakurenbo_hpc.selection.global_stats import GlobalStats

EVERYONE = GlobalStats(SerialComm())
P = [0.0, 0.75, 0.96, 1.0]


def importance(**options):
    return method("sample_importance", **options)


def rows(m, **columns):
    return ledger(m, [9, 9, 9, 9], unseen=range(4), **columns)


def weights_after(m, epoch=0, loss=(1, 1, 1, 1), p=P, **extra):
    """The importance column after an epoch that trained all four."""
    extra = {"probability": np.float32(p), **extra}
    return after(m, rows(m), epoch, range(4), loss, **extra).extra["importance"]


def test_weights_are_taken_at_the_end_of_epoch_e_and_kept():
    m = importance(pretrain_epochs=2)
    first = after(m, rows(m), 0, range(4), [1] * 4, probability=np.float32([0.5] * 4))
    assert np.all(np.isnan(first.extra["importance"])) and np.all(plan(m, first, 1).train == 1)
    second = after(m, first, 1, range(4), [1] * 4, probability=np.float32(P))
    assert second.extra["importance"] == pytest.approx([1, 0.5, 0.2, 0], abs=1e-6)
    third = after(m, second, 2, range(4), [1] * 4, probability=np.float32([0.5] * 4))
    assert third.extra["importance"].tolist() == second.extra["importance"].tolist()


def test_a_weights_file_in_any_epoch_has_what_the_weights_would_be_by_then():
    m, half = importance(pretrain_epochs=2), np.float32([0.5] * 4)
    first = after(m, rows(m), 0, range(4), [1] * 4, probability=np.float32(P))
    second = after(m, first, 1, range(4), [1] * 4, probability=half)
    third = after(m, second, 2, range(4), [1] * 4, probability=np.float32(P))
    epochs = [Epoch(number, 9, seed=0) for number in range(3)]
    assert m.weights(epochs[0], first, wanted=False) is m.weights(epochs[2], third, wanted=False) is None
    assert m.weights(epochs[0], first, wanted=True) == pytest.approx([1, 0.5, 0.2, 0], abs=1e-6)
    assert m.weights(epochs[1], second, wanted=False) == pytest.approx(second.extra["importance"])
    assert m.weights(epochs[2], third, wanted=True) == pytest.approx([1, 0.5, 0.2, 0], abs=1e-6)


def test_drawn_weights_and_those_of_other_runs_are_written_as_they_are():
    epoch = Epoch(3, 9, seed=0)
    fixed = importance(focus="random")
    drawn = fixed.weights(epoch, rows(fixed), wanted=True)
    assert np.all(drawn > 0) and len(set(drawn)) == 4
    other = importance(weights_from=["other.h5"])
    assert other.weights(epoch, rows(other, importance=np.arange(4.0)), wanted=True).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("gamma", "expected"),
    [(1.0, [1, 0.25, 0.04, 0]), (0.0, [1, 1, 1, 1]), (-1.0, [1, 4, 25, 1e6]), (-2.0, [1, 16, 625, 1e12])],
)
def test_gamma_sets_the_focus_and_a_negative_one_is_kept_from_dividing_by_zero(gamma, expected):
    assert weights_after(importance(gamma=gamma)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("metric", "column"), [("loss", "loss"), ("el2n", "el2n"), ("grad_norm", "grad_norm")]
)
def test_another_metric_can_stand_for_one_minus_p(metric, column):
    extra = {} if metric == "loss" else {column: np.float32([0, 1, 4, 9])}
    assert weights_after(importance(metric=metric), loss=[0, 1, 4, 9], **extra).tolist() == [0, 1, 2, 3]


def test_only_what_is_needed_is_asked_of_the_network():
    assert set(importance().columns) == {"probability", "importance"}
    assert set(importance(metric="grad_norm", level="class").columns) == {"grad_norm", "label", "importance"}
    assert (
        set(importance(weights_from=["a.h5"]).columns)
        == set(importance(focus="random").columns)
        == {"importance"}
    )


def test_what_is_not_known_has_the_largest_weight():
    m = importance(unbiased=True)
    known = rows(m).with_columns({"importance": np.array([0.5, 1.0, np.nan, np.nan])})
    assert plan(m, known).weight.tolist() == [1.75, 0.875, 0.875, 0.875]
    nothing = plan(m, rows(m), 1)
    assert nothing.weight.tolist() == [1, 1, 1, 1]
    assert np.isnan(weights_after(importance(), loss=[1, np.nan, 1, 1], p=[0, 0, np.nan, 0])).tolist() == [
        0,
        1,
        1,
        0,
    ]


def test_classes_are_drawn_by_their_sum_and_samples_within_uniformly():
    weight = np.float32([0.25, 0.75, 1.0, np.nan])
    assert weights.average_by_class(weight, np.array([0, 0, 1, 1]), EVERYONE).tolist()[:3] == [0.5, 0.5, 1.0]
    m = importance(level="class", unbiased=True)
    known = rows(m, label=[0, 0, 0, 1]).with_columns({"importance": np.array([0.0, 0.5, 1.0, 0.5])})
    assert plan(m, known).weight.tolist() == [
        1,
        1,
        1,
        1,
    ]  # one class of sum 1.5 and three samples, one of .5 and one


def test_the_unbiased_variant_weighs_by_the_inverse():
    m = importance(unbiased=True)
    known = rows(m).with_columns({"importance": np.array([1.0, 3.0, 4.0, 8.0])})
    assert plan(m, known).weight == pytest.approx([4, 4 / 3, 1, 0.5])


def test_fresh_weights_come_from_a_look_before_epoch_e():
    m = importance(pretrain_epochs=1, weights_pass="fresh")
    assert [m.needs_scoring_pass(Epoch(e, 4, 0)) for e in range(4)] == [False, True, False, False]
    assert np.all(np.isnan(weights_after(m)))
    looked = noted(rows(m), 1, range(4), [1] * 4, probability=np.float32(P))
    assert m.update(Epoch(1, 4, 0), looked, "scoring")["importance"] == pytest.approx(
        [1, 0.5, 0.2, 0], abs=1e-6
    )


def test_online_weights_are_renewed_before_every_epoch_from_e_on():
    m = importance(pretrain_epochs=2, online="epoch")
    assert np.all(np.isnan(weights_after(m, epoch=0)))
    assert not np.any(np.isnan(weights_after(m, epoch=1))) and not np.any(np.isnan(weights_after(m, epoch=5)))
    fresh = importance(pretrain_epochs=2, online="epoch", weights_pass="fresh")
    assert [fresh.needs_scoring_pass(Epoch(e, 4, 0)) for e in range(4)] == [False, False, True, True]
    assert np.all(np.isnan(weights_after(fresh, epoch=5)))


def test_random_weights_are_fixed_for_the_run_and_the_seed():
    m = importance(focus="random", unbiased=True)
    kept = {seed: [plan(m, rows(m), e, seed=seed).weight.tolist() for e in (1, 2, 7)] for seed in (0, 1)}
    assert kept[0][0] == kept[0][1] == kept[0][2] != kept[1][0]


def test_weights_of_another_run_stand_as_they_are():
    m = importance(weights_from="other.h5", gamma=2.0, unbiased=True)
    assert m.weights_from == ["other.h5"]
    known = rows(m).with_columns({"importance": np.array([1.0, 3.0, 4.0, 8.0])})
    assert plan(m, after(m, known, 0, range(4), [1] * 4)).weight == pytest.approx([4, 4 / 3, 1, 0.5])


def test_gamma_0_from_epoch_0_on_is_sgd_with_replacement():
    m = importance(pretrain_epochs=0, gamma=0.0)
    decided = plan(m, ledger(m, [1] * 100, unseen=range(100)), 0)
    assert decided.train.sum() == 100 and 50 < np.count_nonzero(decided.train) < 80


def test_a_burn_in_beyond_the_run_is_a_warning():
    assert importance(pretrain_epochs=4).warnings(5) == []
    (line,) = importance(pretrain_epochs=5).warnings(5)
    assert line == "selection.pretrain_epochs is 5, but the run ends after 5 epochs: every epoch is uniform"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"gamma": float("nan")}, "selection.gamma is nan, but must be a finite number"),
        ({"gamma": float("inf")}, "selection.gamma is inf, but must be a finite number"),
        ({"gamma": 50.0}, "selection.gamma is 50.0, but must be less than or equal to 20"),
        ({"pretrain_epochs": 0}, "nothing is known at first; set weights_pass: fresh, or pretrain_epochs: 1"),
        ({"pretrain_epochs": 0, "weights_from": ["a"], "level": "class"}, "nothing is known at first"),
        (
            {"weights_from": ["a"], "focus": "random"},
            "weights_from and focus: random both give the weights; remove one",
        ),
        (
            {"weights_from": ["a"], "online": "epoch"},
            "online: epoch renews weights that weights_from or focus: random fixes",
        ),
        ({"online": "always"}, "selection.online is 'always', but must be 'none', 'epoch' or 'step'"),
        ({"weights_from": [3]}, "selection.weights_from.0 is 3, but must be a string"),
    ],
)
def test_a_wrong_option_is_one_line(options, line):
    assert line in refusal("sample_importance", **options)


def test_online_by_step_draws_each_step_by_what_is_known_then():
    m = importance(pretrain_epochs=1, online="step", gamma=1.0)
    epoch, everyone = Epoch(1, 9, 0), GlobalStats(SerialComm())
    assert m.selection_level(Epoch(0, 9, 0)) == "epoch" and m.selection_level(epoch) == "step"
    rows = after(
        m, ledger(m, [1.0] * 4), 0, range(4), [1.0] * 4, probability=np.array([0.0, 1, 1, 1], np.float32)
    )
    assert m.plan_step(epoch, 0, 6, rows, everyone).train.tolist() == [6, 0, 0, 0], (
        "only the first is not sure yet"
    )
    rows = noted(rows, 1, [0, 3], [1.0, 1.0], probability=np.array([1.0, 0], np.float32))
    assert m.plan_step(epoch, 1, 6, rows, everyone).train.tolist() == [0, 0, 0, 6], (
        "the step before has told otherwise"
    )
