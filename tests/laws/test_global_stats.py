"""Laws of GlobalStats: every answer is that of a serial sort or exact sum, for any split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from support import oracle
from support.ledgers import epochs, masks, on_ranks, picked, splits, unique_ids, values

from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.errors import WorldError
from kakurenbo_hpc.selection.global_stats import GlobalStats
from kakurenbo_hpc.selection.sorting import _regular_samples

sizes = st.integers(1, 60)
fractions = st.one_of(st.sampled_from([0.0, 0.1, 0.29, 0.3, 0.5, 1.0]), st.floats(0, 1))


@st.composite
def rows(draw, n=None):
    """Values, unique ids and a split of 1 to 60 rows."""
    n = draw(sizes) if n is None else n
    return draw(values(n)), draw(unique_ids(n)), draw(splits(n))


def joined(cuts, work):
    return np.concatenate(on_ranks(cuts, work))


def the_one(answers):
    """What all ranks say alike."""
    assert all(answer == answers[0] for answer in answers)
    return answers[0]


@given(rows(), st.data())
def test_the_kth_smallest_is_that_of_a_sort(rows, data):
    value, ids, cuts = rows
    k = data.draw(st.integers(1, len(value)))
    found, found_id = the_one(
        on_ranks(cuts, lambda everyone, mine: everyone.kth_smallest(value[mine], k, ids[mine]))
    )
    assert (found, found_id) == oracle.kth_smallest(value, k, ids)


def test_more_rows_than_are_handled_at_a_time_are_answered_as_few_are():
    n = 150_000
    random = np.random.default_rng(0)
    value = random.choice(np.append(random.normal(size=5000), [np.nan, np.inf, -np.inf, -0.0]), n).astype(
        np.float32
    )
    ids, label, cuts = random.permutation(n), random.integers(0, 3, n), [0, 70_000, 70_000, n]
    marked = joined(
        cuts, lambda everyone, mine: everyone.smallest(value[mine], 0.3, ids[mine], ~np.isnan(value[mine]))
    )
    np.testing.assert_array_equal(marked, oracle.smallest(value, 0.3, ids, ~np.isnan(value)))
    assert the_one(
        on_ranks(cuts, lambda e, mine: e.kth_smallest(value[mine], n // 2, ids[mine]))
    ) == oracle.kth_smallest(value, n // 2, ids)
    np.testing.assert_array_equal(
        joined(cuts, lambda e, mine: e.rank(value[mine], ids[mine])), oracle.rank(value, ids)
    )
    assert the_one(on_ranks(cuts, lambda e, mine: e.sum(value[mine]))) == (
        oracle.exact_sum(value),
        oracle.n_finite(value),
    )
    for sums in on_ranks(cuts, lambda e, mine: e.class_sum(value[mine], label[mine], 3)):
        np.testing.assert_array_equal(sums, oracle.class_sum(value, label, 3))


def of_a_kind(kind, n):
    """Return (n,) values: all different; all equal; or such that the rows that are sampled mislead."""
    random = np.random.default_rng(n)
    value = random.permutation(n).astype(np.float32)
    if kind == "periodic":  # 4096 rows are sampled: those of smallest value
        value = np.sort(value)
        sampled = np.arange(min(n, 4096)) * n // min(n, 4096)
        value = np.append(value[: len(sampled)], random.permutation(value[len(sampled) :]))
        order = np.append(sampled, np.setdiff1d(np.arange(n), sampled))
        value[order] = value.copy()
    return np.zeros(n, np.float32) if kind == "tied" else value


@pytest.mark.parametrize("kind", ["distinct", "tied", "periodic"])
@pytest.mark.parametrize("share", [1e-5, 0.03, 0.5, 0.98])
def test_a_sample_that_misleads_changes_no_threshold(kind, share):
    n = 100_000
    value, ids, cuts = of_a_kind(kind, n), np.arange(n), [0, 30_000, n]
    value[::7] = [np.nan, -np.inf, -0.0, 0.0, np.inf, -3, 5, 5] * (n // 56) + [5] * (n // 7 + 1 - n // 56 * 8)
    among = np.random.default_rng(1).random(n) < 0.6
    for ranges in (False, True):
        for ask, answer in ((GlobalStats.smallest, oracle.smallest), (GlobalStats.largest, oracle.largest)):
            for may in (None, among):
                marked = joined(
                    cuts,
                    lambda everyone, mine, ask=ask, may=may, ranges=ranges: ask(
                        everyone,
                        value[mine],
                        share,
                        range(mine.start, mine.stop) if ranges else ids[mine],
                        None if may is None else may[mine],
                    ),
                )
                np.testing.assert_array_equal(marked, answer(value, share, ids, may))


@given(rows())
def test_a_k_out_of_range_is_an_error_on_every_rank(rows):
    value, ids, cuts = rows
    n = len(value)

    def ask(everyone, mine):
        for k in (-1, 0, n + 1):
            with pytest.raises(ValueError, match=f"k is {k}, but there are {n} rows"):
                everyone.kth_smallest(value[mine], k, ids[mine])

    on_ranks(cuts, ask)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_nan_of_either_sign_counts_as_inf(sign):
    value = np.array(
        [1, np.copysign(np.nan, sign), -1], np.float32
    )  # inf - inf is a NaN of negative sign on x86
    everyone, ids = GlobalStats(SerialComm()), np.arange(3)
    assert everyone.rank(value, ids).tolist() == [1, 2, 0]
    assert everyone.largest(value, 1 / 3, ids).tolist() == [False, True, False]
    assert everyone.kth_smallest(value, 3, ids)[0] == np.inf


def test_minus_zero_equals_zero():
    assert GlobalStats(SerialComm()).rank(
        np.array([0.0, -0.0, -1e-45], np.float32), np.arange(3)
    ).tolist() == [
        1,
        2,
        0,
    ]


@given(rows(), fractions, st.data())
def test_the_smallest_and_the_largest_are_those_of_a_sort(rows, fraction, data):
    value, ids, cuts = rows
    among = data.draw(st.one_of(st.none(), masks(len(value))))
    for name in ("smallest", "largest"):

        def ask(everyone, mine):
            only = None if among is None else among[mine]
            return getattr(everyone, name)(value[mine], fraction, ids[mine], only)

        np.testing.assert_array_equal(
            joined(cuts, ask), getattr(oracle, name)(value, fraction, ids, among), name
        )


@given(rows(), st.data())
def test_the_first_n_are_those_of_a_sort(rows, data):
    value, ids, cuts = rows
    n = data.draw(st.integers(0, len(value)))
    first = joined(cuts, lambda everyone, mine: everyone.first(value[mine], n, ids[mine]))
    assert np.flatnonzero(first).tolist() == sorted(oracle.in_order(value, ids)[:n])


@given(rows())
def test_the_largest_finite_value_is_everyones(rows):
    value, _, cuts = rows
    expected = value.max(initial=-np.inf, where=np.isfinite(value))
    assert the_one(on_ranks(cuts, lambda everyone, mine: everyone.max(value[mine]))) == expected


@given(rows())
def test_sum_and_mean_are_exact(rows):
    value, _, cuts = rows
    total, n = the_one(on_ranks(cuts, lambda everyone, mine: everyone.sum(value[mine])))
    assert (total, n) == (oracle.exact_sum(value), oracle.n_finite(value))
    mean, n = on_ranks(cuts, lambda everyone, mine: everyone.mean(value[mine]))[0]
    assert n == oracle.n_finite(value)
    assert mean == oracle.exact_sum(value) / n if n else np.isnan(mean)


def test_a_sum_keeps_what_float32_and_float64_would_lose():
    value = np.array([3e38, 1e-45, -3e38, 1, 2**-60], np.float32)
    for order in ([0, 1, 2, 3, 4], [1, 4, 0, 3, 2]):
        assert GlobalStats(SerialComm()).sum(value[order]).value == 1 + 2**-60 + float(np.float32(1e-45))
    many = np.tile(np.array([16777216, 1], np.float32), 70000)  # more than are handled at a time
    assert GlobalStats(SerialComm()).sum(many) == (16777217 * 70000, 140000)


@given(st.data(), sizes, st.sampled_from([np.int64, np.int32, bool]))
def test_sums_of_integers_and_of_masks_are_sums(data, n, dtype):
    value = picked(data.draw, [0, 1, -7, 2**31 - 1, -(2**31)], n, np.int64).astype(dtype)
    cuts = data.draw(splits(n))
    answer = the_one(on_ranks(cuts, lambda everyone, mine: everyone.sum(value[mine])))
    assert answer == (sum(value.tolist()), n)
    mean = the_one(on_ranks(cuts, lambda everyone, mine: everyone.mean(value[mine])))
    assert mean == (sum(value.tolist()) / n, n)


@given(rows(), st.integers(1, 4), st.data())
def test_the_sum_of_each_class_is_exact(rows, n_classes, data):
    value, _, cuts = rows
    label = picked(data.draw, range(n_classes), len(value), np.int32)
    for answer in on_ranks(
        cuts, lambda everyone, mine: everyone.class_sum(value[mine], label[mine], n_classes)
    ):
        np.testing.assert_array_equal(answer, oracle.class_sum(value, label, n_classes))


@given(rows(), st.data())
def test_counts_are_counts(rows, data):
    value, _, cuts = rows
    one, other = data.draw(masks(len(value))), np.isnan(value)
    answer = the_one(on_ranks(cuts, lambda everyone, mine: everyone.count(one[mine], other[mine])))
    assert answer == [one.sum(), other.sum()]


@given(rows())
def test_percentile_and_rank_are_those_of_a_sort(rows):
    value, ids, cuts = rows
    percentile = joined(cuts, lambda everyone, mine: everyone.percentile(value[mine], ids[mine]))
    np.testing.assert_array_equal(percentile, oracle.percentile(value))
    rank = joined(cuts, lambda everyone, mine: everyone.rank(value[mine], ids[mine]))
    np.testing.assert_array_equal(rank, oracle.rank(value, ids))


@pytest.mark.parametrize("cuts", [[0, 60], [0, 20, 20, 45, 60]])
def test_ids_beyond_32_bits_are_ordered_as_others(cuts):
    random = np.random.default_rng(0)
    value = random.integers(0, 3, 60).astype(np.float32)
    ids = 10**10 - random.permutation(60)
    rank = joined(cuts, lambda everyone, mine: everyone.rank(value[mine], ids[mine]))
    np.testing.assert_array_equal(rank, oracle.rank(value, ids))
    percentile = joined(cuts, lambda everyone, mine: everyone.percentile(value[mine], ids[mine]))
    np.testing.assert_array_equal(percentile, oracle.percentile(value))
    weight = value + 1
    times = joined(cuts, lambda e, mine: e.draw(weight[mine], 40, ids[mine], Epoch(0, 1, 0).rng, "test"))
    assert times.sum() == 40
    np.testing.assert_array_equal(times, drawn(weight, 40, Epoch(0, 1, 0), ids))


def test_the_sample_of_a_sort_on_many_ranks_is_short_and_cuts_even_parts():
    class Ranks(SerialComm):
        def __init__(self, rank, size):
            self.rank, self.size = rank, size

    n_ranks, random = 8192, np.random.default_rng(0)
    rows = np.sort(random.random((n_ranks, 20)))
    samples = np.sort(
        np.concatenate([_regular_samples(own, Ranks(r, n_ranks)) for r, own in enumerate(rows)])
    )
    assert len(samples) <= 1 << 20
    borders = samples[np.arange(1, n_ranks) * len(samples) // n_ranks]
    assert np.diff(np.searchsorted(np.sort(rows.ravel()), borders)).max() < 3 * 20


@given(rows())
def test_the_histogram_counts_each_finite_value_between_its_edges(rows):
    value, _, cuts = rows
    answers = on_ranks(cuts, lambda everyone, mine: everyone.histogram(value[mine]))
    edges, counts = answers[0]
    for answer in answers:
        np.testing.assert_array_equal(answer.edges, edges)
        np.testing.assert_array_equal(answer.counts, counts)
    finite = value[np.isfinite(value)]
    assert counts.sum() == len(finite)
    if len(finite):
        assert counts[0] and counts[-1] and np.all(edges[1:] > edges[:-1])
        assert [
            np.count_nonzero((finite >= a) & (finite < b)) for a, b in zip(edges[:-1], edges[1:])
        ] == counts.tolist()


def test_a_histogram_has_about_four_bins_an_octave():
    edges, _ = GlobalStats(SerialComm()).histogram(np.array([1, 3.9], np.float32))
    np.testing.assert_allclose(edges, [1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4])


def test_ranks_that_differ_are_told_so_on_every_rank():
    run_in_threads(3, lambda comm: GlobalStats(comm).agree(7, "the seed"))

    def ask(comm):
        with pytest.raises(
            WorldError, match="ranks differ in the seed: rank 0 has 7, rank 2 has 9; give all the same"
        ) as problem:
            GlobalStats(comm).agree(9 if comm.rank == 2 else 7, "the seed")
        assert problem.value.on_all_ranks

    run_in_threads(3, ask)


# The cost of a question: how many messages, and how long.


class Counting:
    """A comm that notes each collective call: its name and how many bytes it carries."""

    def __init__(self, comm):
        self._comm, self.calls = comm, []

    def __getattr__(self, name):
        attribute = getattr(self._comm, name)
        if not callable(attribute):
            return attribute

        def call(array):
            self.calls.append((name, array.nbytes))
            return attribute(array)

        return call


def cost(n_ranks, value, ids, k):
    """Return the calls that rank 0 makes to find the k-th smallest; all ranks make the same."""

    def ask(comm):
        counting, mine = (
            Counting(comm),
            slice(comm.rank * len(value) // comm.size, (comm.rank + 1) * len(value) // comm.size),
        )
        GlobalStats(counting).kth_smallest(value[mine], k, ids[mine])
        return counting.calls

    return the_one(run_in_threads(n_ranks, ask))


@pytest.mark.parametrize("n_ranks", [1, 3])
@pytest.mark.parametrize("n", [10, 1000, 100_000])
@pytest.mark.parametrize("kind", ["distinct", "tied", "periodic"])
def test_a_threshold_costs_few_short_messages_however_many_rows_there_are(kind, n, n_ranks):
    calls = cost(n_ranks, of_a_kind(kind, n), 2**32 - n + np.arange(n), n // 2)
    assert len(calls) <= 15 and {name for name, _ in calls} <= {"sum", "exscan", "max"}
    assert sum(size for _, size in calls) <= 1 << 16


# Draws with replacement.


def drawn(weight, n, epoch, ids=None, purpose="test"):
    ids = np.arange(len(weight)) if ids is None else ids
    return GlobalStats(SerialComm()).draw(np.asarray(weight, np.float32), n, ids, epoch.rng, purpose)


def in_all(weight, n, n_epochs):
    return np.array([drawn(weight, n, Epoch(number, n_epochs, seed=0)) for number in range(n_epochs)])


@given(st.data(), st.integers(0, 100), epochs)
def test_draws_are_exactly_as_many_as_asked_and_the_same_for_any_split(data, n, epoch):
    weight = picked(data.draw, [0, 1e-3, 0.5, 1, 30], data.draw(st.integers(1, 30)), np.float32)
    weight[data.draw(st.integers(0, len(weight) - 1))] = 1  # somebody can be drawn
    ids, cuts = np.arange(len(weight)) + 2**32 - 100, data.draw(splits(len(weight)))
    times = joined(cuts, lambda everyone, mine: everyone.draw(weight[mine], n, ids[mine], epoch.rng, "test"))
    assert times.sum() == n and not times[weight == 0].any()
    np.testing.assert_array_equal(times, drawn(weight, n, epoch, ids))


def test_draws_are_in_proportion_to_the_weights():
    weight = np.array([0.1, 0.5, 1, 2, 3, 0, 7])
    times = in_all(weight, 100, 200).sum(axis=0)
    possible = weight > 0
    assert not times[~possible].any()
    expected = times.sum() * weight[possible] / weight.sum()
    assert stats.chisquare(times[possible], expected).pvalue > 1e-3


def test_draws_vary_as_a_multinomial_does():
    """Pearson's X^2 of a multinomial draw has mean K - 1; independent Poisson counts would give K."""
    weight, n = np.array([1, 2, 3, 4, 5]), 60
    expected = n * weight / weight.sum()
    x2 = ((in_all(weight, n, 600) - expected) ** 2 / expected).sum(axis=1)
    assert abs(x2.mean() - 4) < 4 * np.sqrt(2 * 4 / 600)


def test_the_number_drawn_of_one_sample_follows_the_exact_binomial():
    times = in_all([1, 3], 8, 500)[:, 0]
    expected = 500 * stats.binom.pmf(np.arange(9), 8, 0.25)
    few = expected < 5
    observed = np.bincount(times, minlength=9)
    observed, expected = (np.append(counts[~few], counts[few].sum()) for counts in (observed, expected))
    assert stats.chisquare(observed, expected).pvalue > 1e-3


@pytest.mark.parametrize("power", [-140, -120, -20, 3, 20, 120])
def test_the_scale_of_the_weights_changes_no_draw(power):
    weight = np.array([1, 2, 3, 5, 6], np.float32)
    scaled = np.ldexp(weight, power)
    for number in range(20):
        np.testing.assert_array_equal(
            drawn(scaled, 100, Epoch(number, 20, 0)), drawn(weight, 100, Epoch(number, 20, 0))
        )


def test_epoch_seed_purpose_and_id_each_give_other_draws():
    weight = np.ones(50)
    times = [
        drawn(weight, 50, Epoch(0, 9, 0)),
        drawn(weight, 50, Epoch(1, 9, 0)),
        drawn(weight, 50, Epoch(0, 9, 1)),
        drawn(weight, 50, Epoch(0, 9, 0), purpose="other"),
        drawn(weight, 50, Epoch(0, 9, 0), ids=np.arange(50) + 50),
    ]
    assert len({tuple(t) for t in times}) == 5
