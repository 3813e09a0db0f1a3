"""Katharopoulos and Fleuret 2018: when sampling is on, what it draws, and unbiased weights."""

import numpy as np
import pytest

from kakurenbo_hpc.core.batch import Candidates
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.selection.global_stats import GlobalStats


def method(**options):
    return METHODS["kath18"](method="kath18", **options)


def candidates(score, first=0):
    score = np.asarray(score, np.float32)
    return Candidates(
        np.arange(first, first + len(score)), np.zeros(len(score), np.int32), score, {"el2n": score}
    )


def test_tau_is_the_papers_formula_of_all_ranks_scores():
    scores = np.random.default_rng(0).exponential(size=90).astype(np.float32)

    def work(comm):
        mine = np.split(scores, [20, 50])[comm.rank]
        return method().on_step(candidates(mine), {"tau": np.ones(1)}, GlobalStats(comm))["tau"][0]

    g = scores.astype(float) / scores.sum(dtype=float)
    reduction = (1 - ((g - 1 / 90) ** 2).sum() / (g**2).sum()) ** -0.5
    assert run_in_threads(3, work) == pytest.approx([0.9 + 0.1 * reduction] * 3, rel=1e-6)


def test_it_is_on_above_the_papers_threshold():
    kath = method(presample=3.0)  # (B + 3b) / (3b) with B = 3b
    assert not kath.selects_next({"tau": np.array([2.0])}) and kath.selects_next({"tau": np.array([2.0001])})
    assert not kath.selects_next(kath.init_state())


def test_it_can_be_forced_on():
    kath = method(force=True)
    assert kath.selects_next(kath.init_state())


def weighted_means(value, scores, reweight):
    kath, sums = method(reweight=reweight, presample=3.0), []
    for epoch in range(4000):
        choice, _ = kath.select(
            Epoch(epoch, 4000, 1), candidates(scores), kath.init_state(), GlobalStats(SerialComm())
        )
        assert len(choice.rows) == 10
        sums.append((choice.weight * value[choice.rows]).mean())
    return np.array(sums)


@pytest.mark.parametrize(("reweight", "keeps"), [(True, True), (False, False)])
def test_weights_keep_the_mean_of_the_presample_and_without_them_it_is_not_kept(reweight, keeps):
    rng = np.random.default_rng(2)
    scores = rng.exponential(size=30).astype(np.float32) + np.float32(0.05)
    value = scores + rng.normal(size=30)
    means = weighted_means(value, scores, reweight)
    off = abs(means.mean() - value.mean()) / (means.std() / np.sqrt(len(means)))
    assert (off < 4) == keeps


def test_draws_are_in_proportion_to_the_score():
    scores = np.array([1, 2, 3, 4, 0, 10], np.float32)
    kath, counts = method(presample=1.0), np.zeros(6)
    for epoch in range(3000):
        choice, _ = kath.select(
            Epoch(epoch, 3000, 1), candidates(scores), kath.init_state(), GlobalStats(SerialComm())
        )
        counts += np.bincount(choice.rows, minlength=6)
    expected = scores / scores.sum() * counts.sum()
    chi = ((counts - expected)[expected > 0] ** 2 / expected[expected > 0]).sum()
    assert counts[4] == 0 and chi < 20.5, "0.1 % of chi-square with 4 degrees is 18.5"


def test_nan_scores_count_as_the_largest_finite_one():
    kath = method(score="loss")
    assert kath.scores_of(candidates([1, np.nan, 3, np.inf, -1])).tolist() == [1, 3, 3, 3, 0]
