"""Epoch-level methods plan every epoch of a run as a serial implementation does, for all options."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.ledgers import on_ranks, splits
from support.oracle_methods import Pass, Sample, decide

from kakurenbo_hpc.core.ledger import Ledger
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.core.sample_stats import SampleStats
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.selection.method import FORWARD_COLUMNS

TOTAL, LONG = 5, 8  # epochs; IES hides nothing before the seventh
shares = st.sampled_from([0.0, 0.1, 0.29, 0.3, 0.5, 0.75, 0.9])
gammas = st.sampled_from([0.5, 0.0, -1.0, 2.0, -20.0, 20.0])


losses = st.sampled_from(["last", "predicted"])


def sometimes(values):
    return st.booleans().flatmap(lambda yes: values if yes else st.none())


def importance(**options):
    """Options of sample_importance, as far as they go together."""
    given = {"gamma": gammas, "level": st.sampled_from(["sample", "class"]), "unbiased": st.booleans()}
    return st.fixed_dictionaries({"pretrain_epochs": st.integers(1, 3), **given, **options})


OPTIONS = {
    "everything": st.just({}),
    "random": st.one_of(
        st.fixed_dictionaries({"fraction": shares}), st.just({"fractions": [0.0, 0.5, 0.9, 0.1]})
    ),
    "ies": st.fixed_dictionaries({"threshold": st.sampled_from([0.0, 0.1, 0.5, 2.0])}),
    "random_static": st.fixed_dictionaries({"fraction": shares}),
    "rs2": st.fixed_dictionaries({"fraction": shares}),
    "infobatch": st.fixed_dictionaries(
        {
            "prune_ratio": shares,
            "anneal": st.sampled_from([0.2, 0.6, 0.875, 1.0]),
            "threshold": st.sampled_from(["mean", "mean", "quantile(0.2)", "quantile(.8)"]),
            "prune": st.sampled_from(["below", "above"]),
            "rescale": st.booleans(),
            "exact_share": st.booleans(),
            "loss": losses,
        }
    ),
    "selective_backprop_epoch": st.one_of(
        st.just({}),
        st.fixed_dictionaries({"selectivity": st.sampled_from([0.1, 0.33, 0.5, 1.0]), "loss": losses}),
        st.fixed_dictionaries({"beta": st.sampled_from([0.0, 1.0, 3.0])}),
    ),
    "iswr": st.one_of(
        st.fixed_dictionaries({"scores": st.sampled_from(["full", "lagging"]), "reweight": st.booleans()}),
        st.just({"scores": "lagging", "loss": "predicted"}),
    ),
    "prop": st.fixed_dictionaries(
        {"alpha": st.sampled_from([0.0, 0.6, 1.0]), "epsilon": st.sampled_from([0.01, 1.0]), "loss": losses}
    ),
    "rank": st.fixed_dictionaries({"alpha": st.sampled_from([0.0, 0.7, 2.0]), "loss": losses}),
    "spv": st.fixed_dictionaries({"burn_in": st.integers(0, 3), "epsilon": st.sampled_from([0.2, 0.001])}),
    "sample_importance": st.one_of(
        importance(
            metric=st.sampled_from(["probability", "loss", "el2n", "grad_norm"]),
            online=st.sampled_from(["none", "epoch"]),
            weights_pass=st.sampled_from(["lagging", "fresh"]),
        ),
        importance(pretrain_epochs=st.just(0), weights_pass=st.just("fresh")),
        importance(pretrain_epochs=st.just(0), gamma=st.just(0.0), level=st.just("sample")),
        importance(focus=st.just("random")),
        importance(weights_from=st.just(["any.h5"])),
        importance(weights_from=st.just(["any.h5"]), pretrain_epochs=st.just(0), level=st.just("sample")),
    ),
    "ucb": st.fixed_dictionaries(
        {
            "fraction": shares,
            "momentum": st.sampled_from([0.0, 0.5, 0.8]),
            "every": st.integers(1, 3),
            "c": st.sampled_from([0.0, 1.0, 5.0]),
            "spread": st.sampled_from(["var", "std"]),
        }
    ),
    "epsilon_greedy": st.fixed_dictionaries(
        {"fraction": shares, "every": st.integers(1, 3), "epsilon": st.sampled_from([0.0, 0.1, 0.5, 1.0])}
    ),
    "orderdp": st.fixed_dictionaries(
        {
            "drawn": st.sampled_from([0.1, 0.5, 0.75, 1.0]),
            "kept": st.sampled_from([0.1, 0.5, 0.85, 1.0]),
            "loss": losses,
        }
    ),
    "seta": st.fixed_dictionaries(
        {
            "prune_ratio": shares,
            "groups": st.integers(1, 6),
            "scale": st.sampled_from([0.2, 0.5, 0.9, 1.0]),
            "anneal": st.sampled_from([0.6, 0.875, 1.0]),
            "loss": losses,
        }
    ),
    "rcap": st.fixed_dictionaries(
        {"fraction": shares, "temperature": st.sampled_from([0.25, 1.0, 2.0]), "loss": losses}
    ),
    "static": st.fixed_dictionaries(
        {
            "scores": st.just(["any.h5"]),
            "keep": st.sampled_from(["highest", "lowest"]),
            "fraction": shares,
            "class_balance": st.booleans(),
            "budget": st.sampled_from(["epochs", "steps"]),
        }
    ),
}


@dataclasses.dataclass(frozen=True)
class World:
    """What every forward pass would find: columns[name][kind, epoch, id]; who is noted in epoch 0; a score
    file.
    """

    n: int
    total: int
    columns: dict
    noted_first: np.ndarray
    score: np.ndarray
    label: np.ndarray


@st.composite
def worlds(draw, total=TOTAL):
    """Runs of 1 to 24 samples, with ties, NaN, infinities, and samples that epoch 0 leaves unseen."""
    n = draw(st.integers(1, 24))
    random = np.random.default_rng(draw(st.integers(0, 2**31)))
    awkward = draw(
        st.sampled_from([[], [np.nan], [np.inf], [np.nan, -np.nan, np.inf, 0.0], [0.0, 1e-45, 3e38]])
    )
    levels = draw(
        st.sampled_from([[0.0], [0.5, 1.0], *(random.exponential(size=size).tolist() for size in (6, 200))])
    )

    def table(low_to_high, shape=(2, total, n)):
        ordinary = random.choice(low_to_high, shape)
        return (
            np.where(random.random(shape) < 0.1, random.choice(awkward, shape), ordinary)
            if awkward
            else ordinary
        )

    columns = {"loss": table(levels), "el2n": table([0.1, 0.7, 1.4]), "grad_norm": table(levels)}
    probability = random.choice([0, 1e-6, 0.3, 0.5, 1.0], (2, total, n))
    columns["probability"] = np.where(random.random((2, total, n)) < 0.05, np.nan, probability)
    label = random.integers(0, draw(st.integers(1, 4)), n)
    return World(
        n=n,
        total=total,
        columns={name: column.astype(np.float32) for name, column in columns.items()},
        noted_first=random.random(n) < draw(st.sampled_from([0.0, 0.7, 1.0, 1.0])),
        score=np.where(random.random(n) < 0.1, np.nan, random.choice([0.0, 0.25, 0.5, 3.0], n)),
        label=label,
    )


def plans_of_the_package(method, world, cuts, seed):
    """Run all epochs on these ranks; return, for each epoch, the plan of all rows."""

    def one(everyone, rows):
        return list(_epochs(method, world, everyone, rows, seed))

    by_rank = on_ranks(cuts, one)
    for plans in zip(*by_rank):
        weight = None if plans[0].weight is None else np.concatenate([plan.weight for plan in plans])
        assert all((plan.weight is None) == (weight is None) for plan in plans)
        yield np.concatenate([plan.train for plan in plans]).astype(int), weight, plans


def _epochs(method, world, everyone, rows, seed):
    ledger = Ledger.unseen(world.n, rows.start, rows.stop, method.columns)
    if method.method == "static":
        label = {"label": world.label[rows].astype(np.int32)} if method.class_balance else {}
        ledger = ledger.with_columns({"score": world.score[rows].astype(np.float32), **label})
    elif getattr(method, "weights_from", []):
        ledger = ledger.with_columns({"importance": world.score[rows]})

    def after(ledger, kind, number, noted):
        ids = ledger.id[noted]
        found = {name: column[kind, number, ids] for name, column in world.columns.items()} | {
            "label": world.label[ids]
        }
        zeros = np.zeros(len(ids), np.float32)
        extra = {name: found.get(name, zeros) for name in FORWARD_COLUMNS}
        return ledger.update(
            SampleStats(ids, found["loss"], zeros > 0, zeros, np.arange(len(ids)), extra), number
        )

    for number in range(world.total):
        epoch = Epoch(number, world.total, seed)
        if method.needs_scoring_pass(epoch):
            ledger = after(ledger, 1, number, np.ones(len(ledger), bool))
            ledger = ledger.with_columns(method.update(epoch, ledger, "scoring"))
        plan = method.plan(epoch, ledger, everyone)
        yield plan
        noted = (plan.train > 0) & (world.noted_first[rows] if number == 0 else True)
        ledger = after(ledger, 0, number, noted)
        if plan.refresh is not None:
            ledger = after(ledger, 1, number, plan.refresh)
        ledger = ledger.with_columns(method.update(epoch, ledger, "epoch"))


def plans_of_the_oracle(name, options, looks, world, seed):
    samples = [Sample(i, float(world.score[i]), int(world.label[i])) for i in range(world.n)]

    def note(kind, number, s):
        found = {column: float(world.columns[column][kind, number, s.id]) for column in world.columns}
        s.passes.append(
            Pass(epoch=number, kind=("train", "look")[kind], label=int(world.label[s.id]), **found)
        )

    for number in range(world.total):
        if looks(number):
            for s in samples:
                note(1, number, s)
        train, weight = decide(name, options, samples, number, world.total, seed)
        yield train, weight
        for s in samples:
            if train[s.id] and (number > 0 or world.noted_first[s.id]):
                note(0, number, s)
            elif not train[s.id] and name == "ies":  # refreshed
                note(1, number, s)


@pytest.mark.parametrize("name", OPTIONS)
@given(data=st.data(), seed=st.integers(0, 3))
def test_every_epoch_is_planned_as_the_oracle_plans_it(name, data, seed):
    world = data.draw(worlds(LONG if name == "ies" else TOTAL), label="world")
    options = data.draw(OPTIONS[name], label="options")
    cuts = data.draw(splits(world.n), label="cuts")
    method = METHODS[name](method=name, **options)
    looks = lambda number: method.needs_scoring_pass(Epoch(number, world.total, seed))  # noqa: E731
    ours = plans_of_the_package(method, world, cuts, seed)
    theirs = plans_of_the_oracle(name, method.model_dump(), looks, world, seed)
    for number, ((train, weight, _), (expected, expected_weight)) in enumerate(
        zip(ours, theirs, strict=True)
    ):
        assert train.tolist() == expected, f"epoch {number}"
        assert (weight is None) == (expected_weight is None), f"epoch {number}"
        if weight is not None:
            trained = train > 0
            np.testing.assert_allclose(weight[trained], np.array(expected_weight)[trained], rtol=1e-6)


@pytest.mark.parametrize("name", ["iswr", "sample_importance", "spv", "prop", "rank"])
@given(data=st.data(), world=worlds(), seed=st.integers(0, 3))
def test_draws_are_as_many_as_there_are_samples(name, data, world, seed):
    method = METHODS[name](method=name)
    for train, _, _ in plans_of_the_package(method, world, data.draw(splits(world.n)), seed):
        assert train.sum() == world.n


@given(worlds(), shares, st.integers(0, 3))
def test_rs2_trains_nobody_again_before_all_were_trained(world, fraction, seed):
    method = METHODS["rs2"](method="rs2", fraction=fraction)
    so_far = np.zeros(world.n, int)
    for train, _, plans in plans_of_the_package(method, world, [0, world.n], seed):
        so_far += train
        assert train.sum() == world.n - math.floor(fraction * world.n)
        assert so_far.max() - so_far.min() <= 1
        assert plans[0].max_fraction == pytest.approx(np.mean(train == 0))


@given(worlds(), shares, st.integers(0, 3))
def test_static_with_a_budget_of_steps_goes_round_evenly(world, fraction, seed):
    method = METHODS["static"](method="static", scores=["any.h5"], fraction=fraction, budget="steps")
    so_far = np.zeros(world.n, int)
    for train, _, _ in plans_of_the_package(method, world, [0, world.n], seed):
        so_far += train
        kept = so_far > 0
        assert train.sum() == world.n
        assert so_far[kept].max() - so_far[kept].min() <= 1
