"""Laws of all methods. A method is tested by being listed in METHODS; further options in VARIANTS."""

import copy
import dataclasses
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.ledgers import epochs, ledgers, on_ranks, part, splits

from kakurenbo_hpc.core.ledger import Ledger
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.selection.batch_level import BatchMethod
from kakurenbo_hpc.selection.global_stats import GlobalStats
from kakurenbo_hpc.selection.method import StepMethod

# Options under which a method does something that it does not do by default. A method that is not here runs
# by default.
VARIANTS: dict[str, list[dict]] = {
    "random": [{"fractions": [0.0, 0.5, 0.1]}, {"fraction": 0.75, "scale_lr": True}],
    "kakurenbo": [
        {},
        {"max_fraction": 0.6, "drop_top": 0.3},
        {"max_fraction": 0.9, "move_back": False, "lr_fraction": "ceiling"},
        {
            "fraction_epochs": [0, 1, 2, 4],
            "refresh_every": 2,
            "refresh_mode": "train",
            "refresh_augment": False,
        },
        {"loss": "predicted", "drop_top": 0.1},
    ],
    "random_static": [{}, {"fraction": 0.75, "scale_lr": True}],
    "rs2": [{}, {"fraction": 0.75, "scale_lr": True}],
    "infobatch": [
        {},
        {"prune": "above", "exact_share": True, "anneal": 1.0, "loss": "predicted"},
        {"threshold": "quantile(0.8)", "prune_ratio": 0.9, "rescale": False},
    ],
    "selective_backprop_epoch": [{}, {"beta": 3.0}],
    "iswr": [{}, {"scores": "lagging", "reweight": True, "loss": "predicted"}],
    "sample_importance": [
        {},
        {"level": "class", "unbiased": True, "gamma": -2.0},
        {"metric": "loss", "online": "epoch", "pretrain_epochs": 0, "weights_pass": "fresh"},
        {"focus": "random", "pretrain_epochs": 0},
    ],
    "spv": [{"burn_in": 1}],
    "ucb": [{}, {"spread": "std", "fraction": 0.75, "every": 2}],
    "epsilon_greedy": [{}, {"epsilon": 0.5, "fraction": 0.75, "every": 2}],
    "orderdp": [{}, {"drawn": 0.5, "kept": 0.1, "loss": "predicted"}],
    "seta": [{}, {"prune_ratio": 0.4, "groups": 3, "scale": 0.34, "anneal": 0.6}],
    "rcap": [{}, {"fraction": 0.75, "temperature": 0.25}],
    "ies": [{"threshold": 0.3}],
    "pdd": [{}, {"variant": "smrd", "threshold": 0.0}, {"variant": "srd", "gamma": 0.5, "revision_from": 3}],
    "rho_loss": [{"scores": ["any.h5"]}, {"scores": ["any.h5"], "kept": 0.5, "scope": "global"}],
    "grad_match": [{"every": 2}, {"fraction": 0.5, "warm_start": 0.5, "every": 1}],
    "craig": [{"every": 1}],
    "glister": [{"every": 1}],
    "static": [
        {"scores": ["any.h5"]},
        {"scores": ["any.h5"], "keep": "lowest", "class_balance": True, "budget": "steps"},
    ],
}


def methods(that=lambda method: True):
    return [
        pytest.param(method, id="-".join([name, *options]))
        for name in METHODS
        for options in VARIANTS.get(name, [{}])
        if that(method := METHODS[name](method=name, **options))
    ]


def every_method(that=lambda method: True):
    """Run a law with each method, and each of its variants, that it is about."""
    # The table is long, and variants of a method share most of their code: half as many examples of each.
    few = settings(max_examples=settings.default.max_examples // 2)
    return lambda law: pytest.mark.parametrize("method", methods(that))(few(law))


# Draws with replacement may miss anybody.
hides_by_choice = every_method(lambda m: not m.may_repeat)
hides_by_loss = every_method(lambda m: m.needs_losses and not m.may_repeat)
hides_the_easy = every_method(
    lambda m: (
        m.needs_losses
        and not m.may_repeat
        and not getattr(m, "drop_top", 0)
        and getattr(m, "prune", "") != "above"
    )
)


def plan_of(method, epoch, ledger):
    return method.plan(epoch, ledger, GlobalStats(SerialComm()))


def arrays(plan):
    return {name: getattr(plan, name) for name in ("train", "refresh", "weight", "probability")}


def scalars(plan):
    return {f.name: getattr(plan, f.name) for f in dataclasses.fields(plan) if f.name not in arrays(plan)}


def assert_same(one, other):
    for name, column in arrays(one).items():
        np.testing.assert_array_equal(column, arrays(other)[name], name)
    assert scalars(one) == scalars(other)


def drawn(data, method, finite=False):
    return data.draw(epochs, label="epoch"), data.draw(ledgers(method.columns, finite), label="ledger")


@every_method()
@given(data=st.data())
def test_any_split_of_the_rows_gives_the_same_plan(method, data):
    epoch, ledger = drawn(data, method)
    cuts = data.draw(splits(len(ledger)), label="cuts")
    plans = on_ranks(cuts, lambda everyone, rows: method.plan(epoch, part(ledger, rows), everyone))
    whole = plan_of(method, epoch, ledger)
    for name, column in arrays(whole).items():
        parts = [arrays(plan)[name] for plan in plans]
        if column is None:
            assert all(p is None for p in parts)
        else:
            assert all(p.dtype == column.dtype for p in parts)
            np.testing.assert_array_equal(np.concatenate(parts), column, name)
    assert all(scalars(plan) == scalars(whole) for plan in plans)


@every_method()
@given(data=st.data())
def test_everything_is_trained_or_hidden_and_only_the_hidden_are_refreshed(method, data):
    epoch, ledger = drawn(data, method)
    plan = plan_of(method, epoch, ledger)
    assert plan.train.shape == (len(ledger),) and plan.train.dtype.kind in "biu"
    assert np.all(plan.train >= 0) and (method.may_repeat or np.all(plan.train <= 1))
    assert np.any(plan.train > 0), "an epoch that trains nothing"
    if plan.refresh is not None:
        assert plan.refresh.dtype == bool and not np.any(plan.refresh & (plan.train > 0))


@hides_by_choice
@given(data=st.data())
def test_no_method_hides_more_than_its_fraction(method, data):
    epoch, ledger = drawn(data, method)
    plan = plan_of(method, epoch, ledger)
    n = len(ledger)
    allowed = math.floor(plan.max_fraction * n + 1e-9) + math.floor(getattr(method, "drop_top", 0) * n)
    assert np.count_nonzero(plan.train == 0) <= allowed


def seen_by(method, n):
    """A ledger of n confident samples, all seen in epoch 0, of which anything may be hidden."""
    rng, ledger = np.random.default_rng(0), Ledger.unseen(n, 0, n, method.columns)
    extra = {
        name: rng.integers(0, 3, column.shape).astype(column.dtype) for name, column in ledger.extra.items()
    }
    loss, sure = rng.lognormal(-1, 1, n).astype(np.float32), np.ones(n, np.float32)
    return dataclasses.replace(
        ledger, loss=loss, correct=sure > 0, confidence=sure, seen_epoch=np.zeros(n, np.int32), extra=extra
    )


@pytest.mark.parametrize("method", methods())
def test_a_method_knows_how_many_its_plans_leave_out(method):
    """What staging makes room for on the nodes' disks."""
    ledger = seen_by(method, 20_000)
    hidden = [np.mean(plan_of(method, Epoch(number, 6, 1), ledger).train == 0) for number in range(1, 6)]
    assert max(hidden) <= method.max_hidden_fraction + 0.01


@hides_by_loss
@given(data=st.data())
def test_where_losses_decide_a_sample_never_seen_is_never_hidden(method, data):
    epoch, ledger = drawn(data, method)
    assert not np.any((plan_of(method, epoch, ledger).train == 0) & ~ledger.seen)


@hides_the_easy
@given(data=st.data())
def test_a_nan_is_never_hidden_as_easy(method, data):
    epoch, ledger = drawn(data, method)
    assert not np.any((plan_of(method, epoch, ledger).train == 0) & np.isnan(ledger.loss))


@every_method()
@given(data=st.data(), nan=st.sampled_from([np.nan, -np.nan]))
def test_one_nan_changes_nothing_for_the_others(method, data, nan):
    """In an order of losses it stands where +inf would, and in a mean it is left out as +inf is."""
    epoch, ledger = drawn(data, method, finite=True)
    row = data.draw(st.integers(0, len(ledger) - 1), label="row")
    assume(ledger.seen[row])

    def with_loss(value):
        loss = ledger.loss.copy()
        loss[row] = value
        return plan_of(method, epoch, dataclasses.replace(ledger, loss=loss))

    others = np.arange(len(ledger)) != row
    one, other = arrays(with_loss(nan)), arrays(with_loss(np.inf))
    for name, column in one.items():
        if column is not None:
            np.testing.assert_array_equal(column[others], other[name][others], name)


@every_method()
@given(data=st.data())
def test_weights_and_learning_rate_stay_finite_whatever_the_losses_are(method, data):
    epoch, ledger = drawn(data, method)
    plan = plan_of(method, epoch, ledger)
    assert 0 < plan.lr_scale < np.inf
    if plan.weight is not None:
        assert plan.weight.dtype == np.float32 and plan.weight.shape == (len(ledger),)
        assert np.all(np.isfinite(plan.weight)) and np.all(plan.weight >= 0)


@every_method()
@given(data=st.data())
def test_a_plan_is_made_of_the_ledger_alone_and_leaves_it_as_it_was(method, data):
    epoch, ledger = drawn(data, method)
    before = copy.deepcopy(ledger)
    assert_same(plan_of(method, epoch, ledger), plan_of(method, epoch, before))
    for name in ("loss", "correct", "confidence", "seen_epoch"):
        np.testing.assert_array_equal(getattr(ledger, name), getattr(before, name), name)
    for name, column in before.extra.items():
        np.testing.assert_array_equal(ledger.extra[name], column, name)


@pytest.mark.parametrize("method", methods())
def test_only_methods_with_the_hooks_of_a_level_choose_at_it(method):
    levels = {method.selection_level(Epoch(number, 6, 0)) for number in range(6)}
    assert "batch" not in levels or isinstance(method, BatchMethod)
    assert "step" not in levels or isinstance(method, StepMethod)


@pytest.mark.parametrize("method", methods())
def test_scaling_options_can_be_switched_off(method):
    off = dict.fromkeys(method.scaling_options, False)
    assert type(method)(**{**method.model_dump(), **off}).model_dump() == {**method.model_dump(), **off}


@pytest.mark.parametrize("method", methods())
def test_only_batch_level_methods_have_a_state(method):
    assert not method.init_state() or isinstance(method, BatchMethod)
