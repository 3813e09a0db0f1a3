"""Draws are uniform, independent of all that they should be independent of, and never change."""

import numpy as np
import pytest
from scipy import stats

from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.core.rng import bits, key, one, uniform

IDS = np.arange(20_000)


def is_uniform(draws, n_bins=64):
    return stats.chisquare(np.bincount((draws * n_bins).astype(int), minlength=n_bins)).pvalue > 1e-3


def are_independent(one, other, n_bins=8):
    """Whether pairs of draws fill the unit square evenly."""
    cell = (one * n_bins).astype(int) * n_bins + (other * n_bins).astype(int)
    return stats.chisquare(np.bincount(cell, minlength=n_bins**2)).pvalue > 1e-3


# Never to be changed: the orders of all runs lean on them, and those of checkpoints that wait to be resumed.
GOLDEN_KEYS = [6942163024847554866, 13495112628108606511]
GOLDEN_BITS = [1641795167005552937, 1669704417814620214, 11407589923124525701, 6034096941673010929]
GOLDEN_COPIES = [11290089044961806365, 17339788671612870543, 6691290674738685956, 2576162123226947696]
GOLDEN_ONES = [820897583502776468, 7638392026359983522]


def test_the_stream_of_draws_is_the_one_it_has_always_been():
    assert key(0, "order", 0) == GOLDEN_KEYS[0] and key(7, "random", 3) == GOLDEN_KEYS[1]
    ids = np.array([0, 1, 2**31, 2**32 - 1])
    assert bits(GOLDEN_KEYS[0], ids).tolist() == GOLDEN_BITS
    assert bits(GOLDEN_KEYS[0], ids, 2).tolist() == GOLDEN_COPIES
    assert uniform(GOLDEN_KEYS[0], ids).tolist() == [b // 2**11 / 2**53 for b in GOLDEN_BITS]
    assert [one(GOLDEN_KEYS[0]), one(GOLDEN_KEYS[0], 5)] == GOLDEN_ONES
    assert Epoch(3, 9, seed=7).rng.uniform(ids, "random").tolist() == uniform(GOLDEN_KEYS[1], ids).tolist()


@pytest.mark.parametrize("stream", [0, 1, key(0, "order"), 2**64 - 1])
def test_draws_are_uniform(stream):
    assert (
        is_uniform(uniform(stream, IDS))
        and is_uniform(uniform(stream, IDS * 4096))
        and is_uniform(uniform(stream, IDS, 3))
    )


def test_a_draw_lies_in_the_half_open_unit_interval_and_all_bits_move():
    draws = uniform(1, IDS)
    assert (
        draws.dtype == np.float64
        and draws.min() >= 0
        and draws.max() < 1
        and len(np.unique(draws)) == len(IDS)
    )
    every_bit = (bits(1, IDS)[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.all(abs(every_bit.mean(axis=0) - 0.5) < 5 * 0.5 / np.sqrt(len(IDS)))


def test_draws_of_neighbouring_ids_are_independent():
    draws = uniform(key(0, "order"), np.arange(40_001))
    assert are_independent(draws[:-1:2], draws[1::2]) and are_independent(
        draws[:20_000], draws[20_000:40_000]
    )


def test_seed_purpose_epoch_and_copy_each_make_an_independent_draw():
    draws = Epoch(0, 9, seed=0).rng.uniform(IDS, "order")
    for other in [
        Epoch(0, 9, seed=1).rng.uniform(IDS, "order"),
        Epoch(1, 9, seed=0).rng.uniform(IDS, "order"),
        Epoch(0, 9, seed=0).rng.uniform(IDS, "random"),
        Epoch(0, 9, seed=0).rng.uniform(IDS, "order", copy=1),
    ]:
        assert are_independent(draws, other)
    assert are_independent(uniform(1, IDS, 1), uniform(1, IDS, 2))
    assert are_independent(
        uniform(1, IDS, 1)[:-1], uniform(1, IDS, 0)[1:]
    )  # the next sample is not the next copy


def test_the_length_of_the_run_decides_no_draw():
    np.testing.assert_array_equal(
        Epoch(2, 3, 0).rng.uniform(IDS, "order"), Epoch(2, 300, 0).rng.uniform(IDS, "order")
    )


def test_a_draw_depends_on_nobody_elses():
    np.testing.assert_array_equal(bits(5, IDS)[::-7], bits(5, IDS[::-7]))
    assert IDS[3] == 3, "the ids are as they were"


def test_a_copys_draw_is_the_same_alone_and_among_others():
    ids, copies = np.array([4, 4, 4, 9]), np.array([0, 1, 2, 0])
    together = bits(5, ids, copies)
    alone = [int(bits(5, np.array([i]), int(copy))[0]) for i, copy in zip(ids, copies)]
    assert together.tolist() == alone and len(set(alone)) == 4


def test_keys_of_like_names_differ():
    names = [
        (seed, purpose, epoch) for seed in (0, 1, 11) for purpose in ("a", "b", "a/1") for epoch in (0, 1, 11)
    ]
    assert len({key(*name) for name in names}) == len(names)


def test_no_two_of_a_million_ids_get_the_same_bits():
    assert len(np.unique(bits(0, np.arange(1_000_000)))) == 1_000_000


def test_streams_of_other_epochs_and_of_the_run_are_those_of_their_epochs():
    epoch = Epoch(3, 9, seed=7)
    other = epoch.rng.of_epoch(5).uniform(IDS, "order")
    assert other.tolist() == Epoch(5, 9, seed=7).rng.uniform(IDS, "order").tolist()
    whole = epoch.rng.of_run().uniform(IDS, "order")
    assert whole.tolist() == Epoch(0, 9, seed=7).rng.uniform(IDS, "order").tolist()
    assert (epoch.rng.bits(IDS, "order") >> np.uint64(11)).tolist() == (
        epoch.rng.uniform(IDS, "order") * 2.0**53
    ).tolist()
