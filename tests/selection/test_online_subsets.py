"""Subsets that are chosen every few epochs: when, from what, and with which weights."""

import numpy as np
import pytest
from support.method_examples import ledger, plan

from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.errors import JobError
from kakurenbo_hpc.hiding.usage_checks import resolve_method
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.selection.global_stats import GlobalStats
from kakurenbo_hpc.selection.subsets.scoring import Scores

EVERYONE = GlobalStats(SerialComm())


def online(name, **options):
    return METHODS[name](method=name, **options)


@pytest.mark.parametrize(
    ("options", "epochs", "selections"),
    [
        ({"every": 20}, 100, [20, 40, 60, 80]),
        ({"every": 1}, 3, [1, 2]),
        # W = ceil(.1 x int(.5 x 300)) = 15 epochs on everything, half of the compute of all subset epochs.
        ({"every": 20, "fraction": 0.9, "warm_start": 0.5}, 60, [3, 23, 43]),
        ({"every": 100, "fraction": 0.9, "warm_start": 0.5}, 300, [15, 115, 215]),
    ],
)
def test_selections_come_every_few_epochs_after_warm_start(options, epochs, selections):
    method = online("grad_match", **options)
    assert [e for e in range(epochs) if method.selects_subset(Epoch(e, epochs, 0))] == selections
    method.check_run(epochs, None)


def test_before_the_first_selection_a_random_subset_is_trained_and_in_warm_start_everything():
    loss = np.zeros(20)
    method = online("craig", fraction=0.25, every=3)
    before = [plan(method, ledger(method, loss), epoch=e, total=9) for e in range(3)]
    assert [np.count_nonzero(one.train) for one in before] == [15] * 3
    assert (before[0].train == before[2].train).all() and before[0].weight is None
    warm = online("craig", fraction=0.25, every=3, warm_start=0.4)
    assert plan(warm, ledger(warm, loss), epoch=2, total=9).train.all()


def test_weights_have_mean_one_over_the_subset():
    method = online("grad_match", fraction=0.4, every=1)
    rows = ledger(
        method,
        np.zeros(5),
        subset_weight=np.array([3, 0, 2, 0, 1], np.float32),
        subset_filled=np.array([False, False, False, False, True]),
    )
    found = plan(method, rows)
    assert found.train.tolist() == [True, False, True, False, True]
    assert found.weight[found.train].tolist() == [1.5, 1, 0.5]
    assert found.n_filled == 1 and found.max_fraction == 0.4


@pytest.mark.parametrize(
    ("name", "options", "kept"),
    [
        ("glister", {}, [0, 1, 4]),  # an order of each class: of 4 and 2 samples 2 and 1 stay
        ("glister", {"greedy": "rgreedy", "class_balance": False}, [0, 1, 2, 3, 4, 5]),  # rounds
        ("craig", {}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_places_of_an_order_are_cut_at_the_fraction(name, options, kept):
    method = online(name, fraction=0.5, **options)
    scores = Scores(np.zeros(6), np.array([0, 1, 2, 3, 0, 1]), np.ones(6) if method.weighted else None)
    columns = method.columns_of(scores, np.array([0, 0, 0, 0, 1, 1]), EVERYONE)
    assert np.flatnonzero(columns["subset_weight"]).tolist() == kept


@pytest.mark.parametrize(
    ("sets", "problem"),
    [
        (["selection={method: craig}"], r"selection.every is 20, but the run ends after 8 epochs, before"),
        (
            ["selection={method: glister, every: 2, target: validation}"],
            r"selection.target is validation, but data.holdout is 0; hold samples out",
        ),
        (["selection={method: glister, every: 2, class_balance: false}"], "greedy is naive, which renews"),
        (
            ["selection={method: grad_match, every: 2, per: batch}"],
            "gradient is own_row, which samples of one",
        ),
    ],
)
def test_bad_options_are_refused_when_the_job_is_read(sets, problem):
    with pytest.raises(JobError, match=problem):
        read_job(find_job("digits_everything"), ["training.epochs=8", *sets], DATASETS, METHODS)


def test_a_loop_of_ones_own_is_told_to_score_instead():
    with pytest.raises(JobError, match="which only kakurenbo train reads"):
        resolve_method("craig", {}, 5)
