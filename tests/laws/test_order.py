"""Laws of an epoch's order, for any plan, batch and split: nothing is lost or counted twice."""

import math

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from support.ledgers import epochs, picked, splits
from support.orders import batches, dealt, entries, everything, order


@st.composite
def deals(draw, repeats=True):
    """The arguments of one deal: times trained, weights, batch sizes, ranks."""
    n = draw(st.integers(0, 60))
    counts = picked(draw, [1, 0, 2, 3] if repeats else [1, 0], n, np.int64)
    return {
        "times": counts.astype(bool) if not repeats or draw(st.booleans()) else counts,
        "cuts": draw(splits(n)),
        "global_batch": draw(st.integers(1, 20)),
        "accumulate": draw(st.integers(1, 3)),
        "weight": draw(st.sampled_from([None, np.arange(n, dtype=np.float32) + 0.5])),
        "epoch": draw(epochs),
    }


def on_one_rank(arguments):
    return dealt(**arguments | {"cuts": None})


@given(deals())
def test_every_entry_is_trained_as_often_as_planned_and_stands_in_one_place(arguments):
    found = everything(dealt(**arguments))
    assert [entry.position for entry in found] == list(range(len(found)))
    planned = [(id_, copy) for id_, times in enumerate(arguments["times"]) for copy in range(int(times))]
    assert sorted((entry.id, entry.copy) for entry in found) == planned


@given(deals())
def test_a_batch_is_the_same_on_any_number_of_ranks(arguments):
    split, alone = dealt(**arguments), on_one_rank(arguments)
    assert batches(split) == batches(alone)
    assert {micro_batches.order_hash for micro_batches in split} == {alone[0].order_hash}


@given(deals(), st.data())
def test_hiding_leaves_the_order_of_the_rest(arguments, data):
    hidden = picked(data.draw, [False, True], len(arguments["times"]), bool)
    rest = [entry for entry in order(dealt(**arguments)) if not hidden[entry[0]]]
    assert (
        order(
            dealt(
                **arguments
                | {"times": np.where(hidden, 0, arguments["times"]).astype(arguments["times"].dtype)}
            )
        )
        == rest
    )


@given(deals(repeats=False))
def test_ones_and_zeros_are_dealt_as_true_and_false_are(arguments):
    counts = arguments | {"times": arguments["times"].astype(np.int8)}
    assert batches(dealt(**counts)) == batches(dealt(**arguments))


@given(deals())
def test_all_batches_are_of_one_size_up_to_one_and_none_is_too_large(arguments):
    ranks = dealt(**arguments)
    n = int(arguments["times"].sum())
    assert all(
        (micro_batches.n, micro_batches.steps) == (n, math.ceil(n / arguments["global_batch"]))
        for micro_batches in ranks
    )
    lengths = [len(batch) for batch in batches(ranks)]
    assert sum(lengths) == n
    if n:
        assert max(lengths) - min(lengths) <= 1 and max(lengths) <= arguments["global_batch"]


@given(deals())
def test_in_a_batch_ranks_and_accumulated_parts_differ_by_at_most_one_entry(arguments):
    ranks = dealt(**arguments)
    for step in range(ranks[0].steps):
        parts = [[len(entries([t])) for t in micro_batches if t.step == step] for micro_batches in ranks]
        of_ranks = [sum(part) for part in parts]
        assert max(of_ranks) - min(of_ranks) <= 1
        assert all(max(part) - min(part) <= 1 for part in parts)


@given(deals())
def test_all_ranks_take_the_same_steps_at_the_same_time(arguments):
    ranks = dealt(**arguments)
    rhythms = [
        [(t.step, t.begins, t.ends, t.n_global, t.progress) for t in micro_batches] for micro_batches in ranks
    ]
    assert all(rhythm == rhythms[0] for rhythm in rhythms)
    accumulate, lengths = arguments["accumulate"], [len(batch) for batch in batches(ranks)]
    assert [(step, begins, ends) for step, begins, ends, *_ in rhythms[0]] == [
        (step, part == 0, part == accumulate - 1)
        for step in range(len(lengths))
        for part in range(accumulate)
    ]
    assert [n_global for *_, n_global, _ in rhythms[0]] == np.repeat(lengths, accumulate).tolist()
    progress = [p for *_, p in rhythms[0]]
    assert progress == sorted(progress) and all(0 < p < 1 for p in progress)
    assert all(len(micro_batches) == len(rhythms[0]) for micro_batches in ranks)


@given(deals())
def test_a_filler_stands_only_where_a_rank_has_nothing_and_never_counts(arguments):
    ranks = dealt(**arguments)
    trained = {entry.id for entry in everything(ranks)}
    for micro_batch in (micro_batch for micro_batches in ranks for micro_batch in micro_batches):
        assert (
            len(micro_batch.id)
            == len(micro_batch.copy)
            == len(micro_batch.weight)
            == len(micro_batch.position)
            >= 1
        )
        assert (micro_batch.id.dtype, micro_batch.position.dtype) == (np.int64, np.int64)
        assert (micro_batch.copy.dtype, micro_batch.weight.dtype) == (np.int32, np.float32)
        if not micro_batch.counts:
            assert len(micro_batch.id) == 1 and int(micro_batch.id[0]) in trained
            assert micro_batch.n_global < len(ranks) * arguments["accumulate"]


@given(deals())
def test_a_weight_stays_with_its_entry(arguments):
    for entry in everything(dealt(**arguments)):
        assert entry.weight == (1 if arguments["weight"] is None else entry.id + 0.5)


@given(deals(), deals())
def test_the_hash_tells_orders_apart(one, other):
    one, other = dealt(**one), dealt(**other)
    assert (one[0].order_hash == other[0].order_hash) == (order(one) == order(other))


@given(deals(), epochs)
def test_another_epoch_has_another_order(arguments, epoch):
    assume((epoch.seed, epoch.number) != (arguments["epoch"].seed, arguments["epoch"].number))
    assume(arguments["times"].sum() >= 12)  # so many in the same order by chance: once in 12!
    assert order(dealt(**arguments)) != order(dealt(**arguments | {"epoch": epoch}))
