"""Scores that are noted while training: p_y of six samples over six epochs, and strata of twelve."""

import numpy as np
import pytest
from support.method_examples import noted
from support.oracle_subsets import temporal_dual_depth
from support.vectors import scoring

from kakurenbo_hpc.core.ledger import Ledger
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.core.rng import Stream
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.errors import JobError
from kakurenbo_hpc.selection.global_stats import GlobalStats

P = np.array(
    [
        [0.2, 0.5, 0.7, 0.8, 0.9, 0.9],
        [0.9] * 6,
        [0.1, 0.1, 0.2, 0.1, 0.1, 0.2],
        [0.3, 0.6, 0.2, 0.7, 0.3, 0.8],
        [0.4, 0.4, 0.5, 0.6, 0.6, 0.7],
        [0.6, 0.2, 0.6, 0.2, 0.6, 0.2],
    ]
)
EVERYONE = GlobalStats(SerialComm())


def trained(method):
    """Return the ledger after six epochs; a sample is correct above one half (noted has losses below 0)."""
    rows = Ledger.unseen(6, 0, 6, method.columns)
    for epoch, p in enumerate(P.T):
        known = {
            "probability": np.float32(p),
            "margin": np.float32(2 * p - 1),
            "label": np.zeros(6, np.int32),
        }
        extra = {name: known[name] for name in method.forward_columns}
        rows = noted(rows, epoch, range(6), np.where(p > 0.5, -1, 1), **extra)
        rows = rows.with_columns(method.update(Epoch(epoch, 6, 0), rows, "epoch"))
    return rows


def scores(name, **options):
    method = scoring(name, **options)
    return method.of_training(Epoch(6, 7, 0), trained(method), EVERYONE)


def test_forgetting_counts_what_was_never_learned_as_most_forgotten():
    assert scores("forgetting").score.tolist() == [0, 0, 7, 2, 0, 3]


def test_area_under_the_margin():
    assert scores("aum").score == pytest.approx((2 * P - 1).sum(axis=1), abs=1e-6)


def test_dynamic_uncertainty_leaves_the_last_window_out():
    found = scores("dyn_unc", window=3).score
    assert found == pytest.approx([0.168138, 0, 0.057735, 0.245772, 0.071823, 0.230940], abs=1e-6)


def test_dual_is_uncertainty_times_difficulty_over_all_windows():
    found = scores("dual", window=3).score
    assert found == pytest.approx([0.053209, 0, 0.050037, 0.132175, 0.032226, 0.138564], abs=1e-6)
    assert scoring("dual").fewest_epochs == 10 and scoring("dyn_unc").fewest_epochs == 11


@pytest.mark.parametrize(
    ("fraction", "weights"),
    [(0.5, [0.081011, 0, 0.000535, 0.406833, 0.099820, 0.307153]), (0.9, None)],
)
def test_dual_draws_by_a_beta_distribution(fraction, weights, monkeypatch):
    method = scoring("dual", window=3, sample="beta", fraction=fraction)
    monkeypatch.setattr(type(method), "best", 2)
    rows = trained(method)
    score = scores("dual", window=3).score
    found = method.weigh(score, rows.extra["sum_of_p"] / 6, rows, EVERYONE)
    if weights:
        assert found == pytest.approx(weights, abs=2e-5)
    draws = np.array([0.3, 0.8, 0.5, 0.6, 0.2, 0.9])
    monkeypatch.setattr(Stream, "uniform", lambda *given, **more: 1 - draws)
    place = method.of_training(Epoch(6, 7, 0), rows, EVERYONE).place
    n_kept = 6 - int(fraction * 6)
    assert np.count_nonzero(place >= 0) == n_kept
    first = ["f", "d", "a"] if fraction == 0.5 else ["a"]
    assert ["abcdef"[row] for row in np.argsort(np.where(place < 0, 9, place))[:n_kept]] == first


AUM = np.array([-1, -0.9, -0.5, 0, 0.1, 0.2, 0.25, 0.3, 0.9, 0.95, 1, 1], np.float32)


def test_strata_share_what_is_kept():
    method = scoring("ccs", beta=0.25, strata=3, fraction=0.5)
    rows = Ledger.unseen(12, 0, 12, method.columns).with_columns({"aum": AUM.astype(np.float64)})
    place = method.choose(AUM, Epoch(0, 1, 0), rows, EVERYONE).place
    assert np.count_nonzero(place[3:8] == 0) == 3 and np.count_nonzero(place[8:] == 0) == 3
    assert np.all(place[:3] == -1)

    def on_rank(comm):
        start, stop = comm.rank * 5, min(12, comm.rank * 5 + 5)
        part = Ledger.unseen(12, start, stop, method.columns).with_columns(
            {"aum": AUM[start:stop].astype(np.float64)}
        )
        return method.choose(AUM[start:stop], Epoch(0, 1, 0), part, GlobalStats(comm)).place

    assert np.concatenate(run_in_threads(3, on_rank)).tolist() == place.tolist()


def test_one_stratum_keeps_as_many_as_the_fraction_says_at_random():
    method = scoring("ccs", strata=1, fraction=0.5)
    rows = Ledger.unseen(12, 0, 12, method.columns).with_columns({"aum": AUM.astype(np.float64)})
    found = {tuple(method.choose(AUM, Epoch(0, 1, seed), rows, EVERYONE).place) for seed in range(5)}
    assert all(place.count(0) == 6 for place in found) and len(found) > 1


def tdds(p, window, beta=0.9):
    """Return the scores of samples from their class probabilities, (T, n, C)."""
    n_epochs, n, n_classes = p.shape
    method = scoring("tdds", window=window, beta=beta).of_data(n_classes)
    rows = Ledger.unseen(n, 0, n, method.columns)
    for epoch in range(n_epochs):
        known = {"probabilities": np.float32(p[epoch]), "label": np.zeros(n, np.int32)}
        rows = noted(rows, epoch, range(n), np.ones(n), **known)
        rows = rows.with_columns(method.update(Epoch(epoch, n_epochs, 0), rows, "epoch"))
    return method.of_training(Epoch(n_epochs, n_epochs + 1, 0), rows, EVERYONE).score


CHANGING = np.array(
    [
        [[0.5, 0.3, 0.2], [0.3, 0.3, 0.4], [0.2, 0.2, 0.6]],
        [[0.6, 0.2, 0.2], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]],
        [[0.7, 0.2, 0.1], [0.2, 0.4, 0.4], [0.2, 0.2, 0.6]],
        [[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.2, 0.2, 0.6]],
    ]
)


def test_temporal_dual_depth_is_large_where_changes_of_outputs_vary():
    assert tdds(CHANGING, 3) == pytest.approx([0.001532, 0.189875, 0], abs=1e-6)


@pytest.mark.parametrize(("n_epochs", "window", "beta"), [(6, 3, 0.9), (7, 4, 0.5), (5, 5, 1.0)])
def test_temporal_dual_depth_by_loops(n_epochs, window, beta):
    p = np.float32(np.random.default_rng(n_epochs).dirichlet(np.ones(4), (n_epochs, 3)))
    expected = [temporal_dual_depth(p[:, i].astype(float), window, beta) for i in range(3)]
    assert tdds(p, window, beta) == pytest.approx(expected, rel=1e-9)


def test_one_sample_whose_outputs_are_not_finite_has_no_score():
    p = CHANGING.copy()
    p[1, 1] = np.nan
    found = tdds(p, 3)
    assert np.isnan(found[1]) and found[0] == pytest.approx(0.001532, abs=1e-6)


def test_outputs_of_too_many_samples_are_refused():
    method = scoring("tdds", memory_limit=0.001).of_data(1000)
    with pytest.raises(JobError, match="take more ranks, or raise it"):
        method.init_columns(range(1000), 1000, "")


@pytest.mark.parametrize("cuts", [[0, 1, 1, 4, 11], [0, *range(2, 9), 11], [0, 0, 11]])
def test_temporal_dual_depth_is_the_same_however_samples_are_split(cuts):
    p = np.float32(np.random.default_rng(1).dirichlet(np.ones(7), (5, 11)))
    p[2, 3] = np.nan
    parts = [tdds(p[:, first:last], 3) for first, last in zip(cuts, cuts[1:], strict=False)]
    np.testing.assert_array_equal(np.concatenate(parts), tdds(p, 3))
