"""Who is home of whom, and what the ledger remembers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakurenbo_hpc.core.ledger import BLOCKS, Homes, Ledger
from kakurenbo_hpc.core.sample_stats import SampleStats

some_samples = st.one_of(st.integers(0, 50), st.integers(BLOCKS - 3, BLOCKS + 3), st.integers(0, 5_000_000))


@given(some_samples, st.integers(1, 3000))
def test_every_id_has_one_home(n, n_ranks):
    homes = Homes(n, n_ranks)
    rows = [homes.rows(rank) for rank in range(n_ranks)]
    assert rows[0][0] == 0 and rows[-1][1] == n
    assert all(before[1] == after[0] and before[0] <= before[1] for before, after in zip(rows, rows[1:]))


@given(some_samples.filter(bool), st.integers(1, 3000), st.data())
def test_of_answers_what_rows_says(n, n_ranks, data):
    homes = Homes(n, n_ranks)
    ids = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=50)))
    for id_, rank in zip(ids, homes.of(ids), strict=True):
        start, stop = homes.rows(int(rank))
        assert start <= id_ < stop


@pytest.mark.parametrize("n", [1, 5, BLOCKS, BLOCKS + 1, 100_003])
@pytest.mark.parametrize("n_ranks", [1, 2, 7, 8, 1024])
def test_of_is_the_inverse_of_rows_for_all_ids(n, n_ranks):
    homes = Homes(n, n_ranks)
    lengths = [stop - start for start, stop in map(homes.rows, range(n_ranks))]
    np.testing.assert_array_equal(homes.of(np.arange(n)), np.repeat(np.arange(n_ranks), lengths))


@given(some_samples, st.integers(1, 500), st.integers(1, 500))
def test_no_block_straddles_two_homes_however_many_ranks_there_are(n, one, other):
    blocks = max(1, min(n, BLOCKS))
    edges = {block * n // blocks for block in range(blocks + 1)}
    for n_ranks in (one, other):
        assert set(Homes(n, n_ranks).starts.tolist()) <= edges


def test_few_samples_on_many_ranks_leave_ranks_without_rows():
    homes = Homes(2, 5)
    assert [homes.rows(rank) for rank in range(5)] == [(0, 0), (0, 0), (0, 1), (1, 1), (1, 2)]
    assert homes.of(np.array([1, 0, 1])).tolist() == [4, 2, 4]
    assert Homes(0, 3).of(np.zeros(0, np.int64)).tolist() == []


def test_a_share_is_even_to_one_block():
    lengths = [stop - start for start, stop in map(Homes(1_281_167, 1000).rows, range(1000))]
    block = 1_281_167 / BLOCKS
    assert max(lengths) - min(lengths) <= block + 2


def test_an_unseen_ledger_knows_nothing_and_says_so():
    ledger = Ledger.unseen(10, 4, 7, {"score": (np.float64, 2.5)})
    assert ledger.id.tolist() == [4, 5, 6] and len(ledger) == 3 and ledger.n_total == 10
    assert not ledger.seen.any() and np.all(ledger.loss == np.inf) and not ledger.correct.any()
    assert (ledger.loss.dtype, ledger.confidence.dtype, ledger.seen_epoch.dtype) == (
        np.float32,
        np.float32,
        np.int32,
    )
    assert ledger.extra["score"].tolist() == [2.5] * 3 and ledger.extra["score"].dtype == np.float64


def stats(ids, losses, positions, **extra):
    ids, loss = np.array(ids, np.int64), np.array(losses, np.float32)
    columns = {name: np.array(column) for name, column in extra.items()}
    return SampleStats(ids, loss, loss < 2, loss / 10, np.array(positions, np.int64), columns)


def test_notes_change_the_rows_that_they_speak_of_and_no_others():
    before = Ledger.unseen(10, 4, 8)
    after = before.update(stats([7, 5], [3, 1], [0, 1]), epoch=6)
    assert after.loss.tolist() == [np.inf, 1, np.inf, 3] and after.correct.tolist() == [
        False,
        True,
        False,
        False,
    ]
    assert after.seen_epoch.tolist() == [-1, 6, -1, 6]
    assert after.confidence.tolist() == pytest.approx([0, 0.1, 0, 0.3])
    assert np.all(before.loss == np.inf), "the ledger before is as it was"


def test_of_several_notes_of_one_sample_the_latest_in_the_epochs_order_wins():
    after = Ledger.unseen(3, 0, 3).update(stats([1, 2, 1, 1], [9, 8, 7, 6], [5, 0, 11, 7]), epoch=0)
    assert after.loss.tolist() == [np.inf, 7, 8]


@given(st.data())
def test_the_order_in_which_notes_arrive_does_not_matter(data):
    n = data.draw(st.integers(1, 12))
    ids = data.draw(st.lists(st.integers(0, n - 1), max_size=30))
    positions = data.draw(st.permutations(range(len(ids))))
    shuffled = data.draw(st.permutations(range(len(ids))))
    after = Ledger.unseen(n, 0, n).update(stats(ids, positions, positions), 0)
    again = Ledger.unseen(n, 0, n).update(
        stats([ids[i] for i in shuffled], [positions[i] for i in shuffled], [positions[i] for i in shuffled]),
        0,
    )
    latest = [max((p for i, p in zip(ids, positions) if i == row), default=np.inf) for row in range(n)]
    assert after.loss.tolist() == again.loss.tolist() == latest


def test_no_notes_change_nothing():
    before = Ledger.unseen(3, 0, 3, {"score": (np.float32, 0)})
    after = before.update(stats([], [], []), 4)
    assert after.loss.tolist() == before.loss.tolist() and not after.seen.any()


def test_columns_are_filled_where_the_ledger_has_them():
    before = Ledger.unseen(4, 2, 4, {"label": (np.int32, -1), "own": (np.float64, 0.5)})
    after = before.update(stats([3], [1], [0], label=[9], el2n=[0.1]), 0)
    assert after.extra["label"].tolist() == [-1, 9] and after.extra["own"].tolist() == [0.5, 0.5]
    assert after.extra.keys() == {"label", "own"} and before.extra["label"].tolist() == [-1, -1]
    assert after.with_columns({"own": np.array([1.0, 2.0])}).extra["own"].tolist() == [1, 2]


def test_a_ledger_is_made_of_its_columns_again():
    ledger = Ledger.unseen(
        10, 3, 7, {"score": (np.float32, 0.5), "loss": (np.float64, 1.0)}
    )  # a method's own may have any name
    again = Ledger.of(10, 3, ledger.columns())
    assert list(ledger.columns()) == [
        "loss",
        "correct",
        "confidence",
        "seen_epoch",
        "extra_score",
        "extra_loss",
    ]
    assert (
        again.extra.keys() == ledger.extra.keys()
        and again.loss is ledger.loss
        and again.extra["loss"] is ledger.extra["loss"]
    )
