"""Collective operations equal numpy's on the stacked arrays of all ranks."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.errors import JobError

sizes = st.integers(1, 8)


@st.composite
def one_array_a_rank(draw):
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=4))
    dtype = draw(st.sampled_from([np.int64, np.uint64, np.int32, np.float64, np.uint8]))
    exact = st.integers(0, 200)  # so that a sum of floats does not depend on its order
    return [draw(hnp.arrays(dtype, shape, elements=exact)) for _ in range(draw(sizes))]


@given(one_array_a_rank())
def test_reductions_are_numpys(arrays):
    before = [array.copy() for array in arrays]
    for name in ("sum", "min", "max"):
        expected = getattr(np, name)(
            np.stack(arrays), axis=0, **({"dtype": arrays[0].dtype} if name == "sum" else {})
        )
        for answer in run_in_threads(len(arrays), lambda comm: getattr(comm, name)(arrays[comm.rank])):
            np.testing.assert_array_equal(answer, expected)
            assert np.asarray(answer).dtype == expected.dtype and np.shape(answer) == expected.shape
    np.testing.assert_array_equal(arrays, before)


@given(one_array_a_rank())
def test_exscan_sums_the_ranks_before(arrays):
    answers = run_in_threads(len(arrays), lambda comm: comm.exscan(arrays[comm.rank]))
    for rank, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, sum(arrays[:rank], np.zeros_like(arrays[0])))


def test_what_comes_back_is_a_new_array():
    def work(comm):
        mine = np.ones(3)
        for answer in (
            comm.sum(mine),
            comm.max(mine),
            comm.exscan(mine),
            *comm.alltoallv([mine] * comm.size),
        ):
            answer[:] = 99
        return mine

    for mine in [*run_in_threads(3, work), *run_in_threads(1, work), work(SerialComm())]:
        assert mine.tolist() == [1, 1, 1]


@given(sizes, st.data())
def test_gather_and_broadcast_keep_the_order_of_ranks(size, data):
    root = data.draw(st.integers(0, size - 1))
    values = [{"rank": rank} for rank in range(size)]
    answers = run_in_threads(
        size, lambda comm: (comm.gather(values[comm.rank]), comm.broadcast(values[comm.rank], root))
    )
    assert answers == [(values, values[root])] * size


@given(sizes, st.data())
def test_alltoallv_is_a_transposition(size, data):
    lengths = [[data.draw(st.integers(0, 3)) for _ in range(size)] for _ in range(size)]
    row = np.dtype([("from", np.int64), ("to", np.int32)])

    def parts(rank):
        return [np.array([(rank, to)] * lengths[rank][to], row) for to in range(size)]

    for rank, received in enumerate(run_in_threads(size, lambda comm: comm.alltoallv(parts(comm.rank)))):
        assert len(received) == size
        for sender, part in enumerate(received):
            np.testing.assert_array_equal(part, parts(sender)[rank])


def test_a_check_that_all_ranks_pass_sends_one_number():
    sent = []

    def work(comm):
        gather = comm.gather
        comm.gather = lambda value: sent.append(value) or gather(value)
        return comm.run_or_raise_together(lambda: comm.rank)

    assert run_in_threads(3, work) == [0, 1, 2]
    assert [value.tolist() for value in sent] == [[0]] * 3  # maxima of threads go through gather


@given(sizes)
def test_a_posted_maximum_arrives_when_it_is_waited_for(size):
    assert run_in_threads(size, lambda comm: comm.post_max(comm.rank * 10).wait()) == [(size - 1) * 10] * size


@given(sizes)
def test_what_is_sent_arrives_in_the_order_in_which_it_was_sent(size):
    def work(comm):
        others = [rank for rank in range(size) if rank != comm.rank]
        letters = [(to, np.array([comm.rank, n], np.uint8)) for n in range(3) for to in others]
        leaving = [comm.post_send(letter, to) for to, letter in letters]
        received = [(source, np.zeros(2, np.uint8)) for _ in range(3) for source in others]
        arriving = [comm.post_receive(letter, source) for source, letter in received]
        for transfer in arriving + leaving:
            transfer.wait()
        assert all(transfer.done() for transfer in arriving + leaving)
        return [letter.tolist() for _, letter in received]

    for rank, letters in enumerate(run_in_threads(size, work)):
        assert letters == [[source, n] for n in range(3) for source in range(size) if source != rank]


def test_nobody_passes_a_barrier_before_all_are_there():
    late = threading.Event()

    def work(comm):
        if comm.rank == 2:
            time.sleep(0.05)
            late.set()
        comm.barrier()
        return late.is_set()

    assert run_in_threads(4, work) == [True] * 4


def test_one_rank_alone_answers_as_one_of_one():
    def all_of_it(comm):
        array = np.array([3, 1, 2])
        return (
            (
                comm.rank,
                comm.size,
                comm.gather("a"),
                comm.broadcast("b"),
                comm.post_max(7).wait(),
                comm.on_rank_zero(lambda: 5),
            ),
            [
                comm.sum(array).tolist(),
                comm.min(array).tolist(),
                comm.max(array).tolist(),
                comm.exscan(array).tolist(),
            ],
            [part.tolist() for part in comm.alltoallv([array])],
        )

    assert all_of_it(SerialComm()) == run_in_threads(1, all_of_it)[0]


@pytest.mark.parametrize("failing", [0, 1, 3])
def test_an_exception_in_one_rank_surfaces_and_the_others_do_not_wait_for_ever(failing):
    def work(comm):
        if comm.rank == failing:
            raise ZeroDivisionError(f"on rank {comm.rank}")
        comm.barrier()

    with pytest.raises(ZeroDivisionError, match=f"on rank {failing}"):
        run_in_threads(4, work)


def test_abort_ends_all_ranks_with_its_code():
    def work(comm):
        if comm.rank == 1:
            comm.abort(75)
        comm.sum(np.ones(1))

    with pytest.raises(SystemExit) as ended:
        run_in_threads(3, work)
    assert ended.value.code == 75


def test_what_one_rank_finds_wrong_with_the_input_all_ranks_raise():
    def work(comm):
        with pytest.raises(JobError, match="rank 2 found it"):
            comm.run_or_raise_together(lambda: wrong() if comm.rank == 2 else comm.rank)
        with pytest.raises(JobError, match="rank 2 found it"):
            comm.on_rank_zero(wrong)
        return comm.run_or_raise_together(lambda: comm.rank), comm.on_rank_zero(lambda: comm.rank)

    def wrong():
        raise JobError("rank 2 found it")

    assert run_in_threads(3, work) == [(0, 0), (1, 0), (2, 0)]


def test_the_first_ranks_work_is_done_once():
    calls = []
    run_in_threads(4, lambda comm: comm.on_rank_zero(lambda: calls.append(comm.rank)))
    assert calls == [0]
