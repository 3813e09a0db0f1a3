"""Order and partition of an epoch on small examples."""

import numpy as np
import pytest
from support.orders import EPOCH, batches, dealt, everything, order

from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.core.rng import bits, key
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.order.deal import deal, normalise_batches


def lengths(micro_batches):
    return [len(micro_batch.id) if micro_batch.counts else 0 for micro_batch in micro_batches]


def test_ten_entries_in_batches_of_four_make_three_and_none_is_a_stump():
    (micro_batches,) = dealt(np.ones(10, bool), global_batch=4)
    assert (micro_batches.n, micro_batches.steps, lengths(micro_batches)) == (10, 3, [3, 3, 4])


def test_nothing_to_train_is_no_step_on_any_rank():
    for micro_batches in dealt(np.zeros(5, bool), cuts=[0, 2, 2, 5]):
        assert (micro_batches.n, micro_batches.steps, len(micro_batches), list(micro_batches)) == (
            0,
            0,
            0,
            [],
        )
    (nobody,) = dealt(np.zeros(0, bool))
    assert list(nobody) == []


def test_a_rank_without_an_entry_repeats_a_real_one_that_does_not_count():
    ranks = dealt(np.array([True, False, True]), cuts=[0, 1, 2, 3, 3], global_batch=8)
    micro_batches = [micro_batch for (micro_batch,) in map(list, ranks)]
    assert sorted(micro_batch.counts for micro_batch in micro_batches) == [False, False, True, True]
    assert all(
        micro_batch.n_global == 2 and len(micro_batch.id) == 1 and micro_batch.id[0] in (0, 2)
        for micro_batch in micro_batches
    )
    assert len(everything(ranks)) == 2


def test_accumulated_parts_make_up_the_global_batch():
    ranks = dealt(np.ones(24, bool), cuts=[0, 12, 24], global_batch=12, accumulate=3)
    assert [lengths(micro_batches) for micro_batches in ranks] == [[2] * 6] * 2
    assert [(t.step, t.begins, t.ends) for t in ranks[0]] == [
        (step, part == 0, part == 2) for step in range(2) for part in range(3)
    ]
    assert batches(ranks) == batches(dealt(np.ones(24, bool), global_batch=12))


def test_progress_is_told_at_the_middle_of_a_step():
    (micro_batches,) = dealt(np.ones(8, bool), global_batch=2)
    assert [micro_batch.progress for micro_batch in micro_batches] == [1 / 8, 3 / 8, 5 / 8, 7 / 8]


def test_copies_are_numbered_and_take_places_of_their_own():
    ranks = dealt(np.array([0, 1, 3]))
    assert sorted(order(ranks)) == [(1, 0), (2, 0), (2, 1), (2, 2)]
    orders = [
        [id_ for id_, _ in order(dealt(np.array([0, 1, 3]), epoch=Epoch(number, 99, 0)))]
        for number in range(30)
    ]
    assert len({tuple(o) for o in orders}) == 4  # the single entry has stood in each of the four places


def test_a_weight_goes_where_its_entry_goes():
    weight = np.array([0.5, 1, 2, 4], np.float32)
    found = {
        (e.id, e.copy): e.weight
        for e in everything(dealt(np.array([1, 2, 0, 1]), cuts=[0, 1, 4], weight=weight))
    }
    assert found == {(0, 0): 0.5, (1, 0): 1, (1, 1): 1, (3, 0): 4}


def test_the_order_hash_sees_a_swap_a_change_and_a_loss():
    def hash_of(*last, epoch=EPOCH):
        (micro_batches,) = dealt(np.array([1] * 12 + list(last)), epoch=epoch)
        return micro_batches.order_hash

    assert hash_of(1, 1) == hash_of(1, 1) < 2**64
    assert (
        len({hash_of(1, 1), hash_of(1, 1, epoch=Epoch(1, 2, 0)), hash_of(1, 0), hash_of(0, 1), hash_of(1, 2)})
        == 5
    )


@pytest.mark.parametrize("n_ranks", [1, 2])
@pytest.mark.parametrize("largest", [2**32 - 1, 2**32, 10**10, 2**40])
def test_large_ids_come_through_in_one_order_on_any_number_of_ranks(largest, n_ranks):
    ids = np.array([0, 2**31 - 1, 2**31, largest - 1, largest])

    def one(comm):
        mine = ids[comm.rank * 3 : (comm.rank + 1) * 3] if comm.size > 1 else ids
        return deal(mine, np.ones(len(mine), bool), EPOCH, comm, 2)

    dealt_to = run_in_threads(n_ranks, one)
    found = sorted(
        (e.position[i], e.id[i]) for d in dealt_to for e in d for i in range(len(e.id)) if e.counts
    )
    alone = deal(ids, np.ones(5, bool), EPOCH, SerialComm(), 2)
    assert [id_ for _, id_ in found] == alone.id.tolist() and sorted(alone.id) == ids.tolist()
    assert {d.order_hash for d in dealt_to} == {alone.order_hash}


def test_ids_that_fit_into_32_bits_are_ordered_as_before():
    """The order of an epoch is a format: 32 bits of the hash above 32 bits of the id."""
    ids = np.arange(100)
    packed = bits(key(EPOCH.seed, "order", EPOCH.number), ids) >> np.uint64(32)
    expected = ids[np.lexsort((ids, packed))]
    assert deal(ids, np.ones(100, bool), EPOCH, SerialComm(), 4).id.tolist() == expected.tolist()


def test_every_place_is_as_likely_for_every_sample():
    """The mean place of a sample over many epochs is the middle, to within four standard errors."""
    n, n_epochs = 16, 400
    places = np.zeros(n)
    for number in range(n_epochs):
        micro_batches = deal(np.arange(n), np.ones(n, bool), Epoch(number, n_epochs, 0), SerialComm(), n)
        places[micro_batches.id] += np.arange(n)
    assert places / n_epochs == pytest.approx((n - 1) / 2, abs=4 * np.sqrt((n**2 - 1) / 12 / n_epochs))


def test_weights_of_every_global_batch_have_mean_one_the_same_on_any_number_of_ranks():
    times = np.random.default_rng(0).integers(0, 3, 40)
    weight = np.random.default_rng(1).exponential(1, 40).astype(np.float32) ** 9

    def normalised(cuts):
        ranks = dealt(times, cuts, global_batch=7, weight=weight)
        return batches(run_in_threads(len(ranks), lambda comm: normalise_batches(ranks[comm.rank], comm)))

    alone = normalised([0, 40])
    for batch, given in zip(alone, batches(dealt(times, global_batch=7, weight=weight)), strict=True):
        mean = np.mean([entry.weight for entry in given])
        assert [entry.weight for entry in batch] == pytest.approx([entry.weight / mean for entry in given])
    for cuts in ([0, 13, 40], [0, 1, 1, 20, 39, 40]):
        assert normalised(cuts) == alone


def test_a_batch_of_zero_weights_stays_as_it_is():
    (schedule,) = dealt(np.ones(4, bool), global_batch=2, weight=np.zeros(4, np.float32))
    assert normalise_batches(schedule, SerialComm()).weight.tolist() == [0] * 4
    (unweighted,) = dealt(np.ones(4, bool))
    assert normalise_batches(unweighted, SerialComm()) is unweighted
