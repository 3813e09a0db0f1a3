"""The scoring passes on a real network: the same on any number of ranks, in any rounds, within memory."""

import copy
import dataclasses
import tracemalloc

import numpy as np
import pytest

from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.core.ledger import Homes
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.data.loader import Loader
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.distributed.world import World
from kakurenbo_hpc.engine.score import Cost, score_by_outputs
from kakurenbo_hpc.engine.set_up import set_up
from kakurenbo_hpc.engine.vector_pass import VectorPass
from kakurenbo_hpc.errors import JobError
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.selection.global_stats import GlobalStats
from kakurenbo_hpc.selection.methods.everything import Everything
from kakurenbo_hpc.selection.subsets import SCORES
from kakurenbo_hpc.selection.subsets.owners import assign_owners, plan_rounds
from kakurenbo_hpc.selection.subsets.scoring import FromOutputs

TINY = [
    "training={epochs: 4, global_batch: 10, lr: 0.01}",
    "data={name: visual_atoms, classes: 3, instances: 20, validation: 5, pixels: 16, imbalance: 0.3}",
    "model.options={width: 2}",
]


@pytest.fixture(scope="module")
def context():
    job = read_job(find_job("digits_everything"), TINY, DATASETS, METHODS)
    return set_up(job, World.detect(SerialComm()), Everything(method="everything"))


def on_rank(context, comm):
    """Return the context of a rank: the same network, its own rows."""
    world = dataclasses.replace(context.world, comm=comm)
    return dataclasses.replace(
        context,
        world=world,
        everyone=GlobalStats(comm),
        homes=Homes(context.homes.n, comm.size),
        learner=copy.deepcopy(context.learner),
        train=Loader(context.data.train, 0, world.device),
    )


def choose(method, context, n_ranks):
    """Return what a method writes on so many ranks: score, place, weight and label of all samples."""

    def work(comm):
        own = on_rank(context, comm)
        if isinstance(method, FromOutputs):
            return score_by_outputs(method, Epoch(0, 1, 0), own, Cost())
        return VectorPass(method, own).choose(seed=0)

    parts = run_in_threads(n_ranks, work)
    columns = [[getattr(one, name) for one, _ in parts] for name in ("score", "place", "weight", "filled")]
    columns.append([label for _, label in parts])
    return [None if column[0] is None else np.concatenate(column) for column in columns]


ALL = [
    name
    for name in SCORES.own
    if hasattr(SCORES[name], "choose_all") or issubclass(SCORES[name], FromOutputs)
]


@pytest.mark.parametrize("name", ALL)
def test_any_number_of_ranks_writes_the_same_file(name, context):
    method = SCORES[name](method=name)
    alone = choose(method, context, 1)
    assert alone[-1].tolist() == context.data.train.labels().tolist()
    for n_ranks in (2, 8) if name in ("herding", "margin", "influence") else (3,):
        for one, other in zip(alone, choose(method, context, n_ranks), strict=True):
            np.testing.assert_array_equal(one, other)


def test_rounds_of_classes_change_nothing_and_keep_memory_low(context):
    method = SCORES["herding"](method="herding")
    whole = choose(method, context, 1)
    narrow = SCORES["herding"](method="herding", memory_limit=3.6e-5)
    assert len(VectorPass(narrow, on_rank(context, SerialComm()))._rounds) == 2
    for one, other in zip(whole, choose(narrow, context, 2), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_peak_is_at_most_three_times_the_rows(context, monkeypatch):
    rank = on_rank(context, SerialComm())
    vectors = VectorPass(SCORES["craig"](method="craig"), rank)
    wide = np.dtype([("id", np.int64), ("label", np.int32), ("input", np.float32, (20_000,)),
                     ("residual", np.float32, (3,)), ("probability", np.float32, (0,))])  # fmt: skip
    monkeypatch.setattr(vectors, "_row", wide)
    fill = {"input": 1.0, "residual": 1.0}
    monkeypatch.setattr(vectors, "_vectors_of", lambda outputs, label: fill)
    (one,), n = vectors._rounds, context.homes.n
    vectors._receive_round(one)  # so that what torch keeps is there before
    tracemalloc.start()
    rows, _ = vectors._receive_round(one)
    largest = [group.rows.h.nbytes for group in vectors._groups(rows, None, None)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == n and sum(largest) == n * 80_000
    assert peak <= 3.1 * n * wide.itemsize


OF_BATCHES = {"per": "batch", "gradient": "full", "batch": 7}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("glister", {}),
        ("glister", {"class_balance": False, "greedy": "rgreedy"}),
        ("grad_match", {}),
        ("grad_match", OF_BATCHES),
    ],
)
def test_a_method_judges_by_what_is_held_out_of_the_training_samples(name, options, context):
    method = SCORES[name](method=name, target="validation", **options)
    with pytest.raises(JobError, match=r"nothing is held out of the training samples; set data.holdout: 0.1"):
        VectorPass(method, on_rank(context, SerialComm()))
    job = read_job(find_job("digits_everything"), [*TINY, "data.holdout=0.3"], DATASETS, METHODS)
    cut = set_up(job, World.detect(SerialComm()), Everything(method="everything"))
    whole, n_held = context.data, len(cut.data.held_out)
    assert 0 < n_held and n_held + cut.homes.n == context.homes.n
    assert whole.fingerprint != cut.data.fingerprint and len(whole.validation) == len(cut.data.validation)
    ids = np.sort(np.concatenate([cut.data.train.row, cut.data.held_out.row]))
    assert ids.tolist() == list(range(context.homes.n))
    alone, by_itself = choose(method, cut, 1), choose(SCORES[name](method=name, **options), cut, 1)
    assert alone[1].tolist() != by_itself[1].tolist()
    for one, other in zip(alone, choose(method, cut, 3), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_class_that_does_not_fit_is_an_error_before_training(context):
    method = SCORES["craig"](method="craig", memory_limit=1e-6)
    with pytest.raises(JobError, match=r"class 0 has 20 samples, which take .* memory_limit is 1e-06; raise"):
        VectorPass(method, on_rank(context, SerialComm()))


def test_batches_that_do_not_fit_are_an_error_before_training(context):
    method = SCORES["grad_match"](method="grad_match", memory_limit=6e-5, **(OF_BATCHES | {"batch": 2}))
    with pytest.raises(JobError, match=r"gradients of 19 batches take .* GiB .* or set gradient to bias"):
        VectorPass(method, on_rank(context, SerialComm()))


def test_owners_share_the_work():
    sizes = np.array([5, 1, 9, 5, 0, 4])
    owner = assign_owners(sizes, 3)
    assert owner.tolist() == [1, 2, 0, 2, 2, 1]
    rounds = plan_rounds(sizes, owner, 1, 0, 10 * 3 / 2**30)
    assert sorted(np.concatenate(rounds).tolist()) == [0, 1, 2, 3, 5]
    assert all(sizes[classes[owner[classes] == rank]].sum() <= 10 for classes in rounds for rank in range(3))
    assert len(plan_rounds(sizes, owner, 1, 0, 1.0)) == 1
