"""Mistakes of a training loop in its use of Hiding, and the one-line error for each."""

import numpy as np
import pytest
import torch
from support.own_loops import POINTS, Loop, N, from_words, hiding
from torch.utils.data import DataLoader

from kakurenbo_hpc import Hiding
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.errors import UserError


def begun(epoch=0, **changed):
    h = hiding(**changed)
    begin_visible(h, epoch)
    return h


def begin_visible(h, epoch):
    h.begin_visible(epoch)
    list(h.batch_sampler)  # as a loader does


def print_error(h, ids=None, losses=None):
    k = len(h.ids)
    losses = torch.ones(k) if losses is None else losses
    return h.observe(
        h.ids if ids is None else ids, losses, torch.ones(k, 3), torch.zeros(k, dtype=torch.int64)
    )


def tell_all(h):
    for _ in range(len(h.batch_sampler)):
        print_error(h)


def twice(h):
    ids = h.ids.copy()
    ids[1] = ids[0]
    return ids


def second_batch(h):
    return h._passes.current.ids_of(1)


def skips_one(h):
    for i, _ in enumerate(h.visible(0, h.batch_sampler)):
        if i != 1:
            print_error(h)


def chosen(method, call, **options):
    """Make a call for the first candidates, and nothing else."""
    own = hiding(method, **options)
    for ids, _ in own.visible(0, DataLoader(POINTS, batch_sampler=own.batch_sampler)):
        call(own, ids)


def leaves_early(h):
    begin_visible(h, 0)
    print_error(h)
    h.begin_visible(1)


def leaves_the_hidden(h):
    Loop(h).run(range(2))
    begin_visible(h, 2)
    tell_all(h)
    h.begin_visible(3)


CASES = {
    "a mean": (
        lambda h: print_error(h, losses=torch.tensor(0.7)),
        "one loss for a batch of 10, an average already.*reduction='none'",
    ),
    "another number of losses": (
        lambda h: print_error(h, losses=torch.ones(7)),
        "got 7 losses, but batch 0 of epoch 0 has 10",
    ),
    "an id beyond the data": (
        lambda h: print_error(h, h.ids + N),
        r"got id \d+ for batch 0 of epoch 0, but ids go from 0 to 89",
    ),
    "a negative id": (lambda h: print_error(h, -1 - h.ids), "but ids go from 0 to 89"),
    "an id twice": (lambda h: print_error(h, twice(h)), r"got id \d+ twice for batch 0"),
    "ids of another order": (
        lambda h: print_error(h, h.ids[::-1].copy()),
        "10 ids that are not those of batch 0.*batch_sampler",
    ),
    "ids of another shape": (
        lambda h: print_error(h, h.ids.reshape(2, 5)),
        r"ids of shape \(2, 5\).*give one integer a sample",
    ),
    "a batch later": (
        lambda h: print_error(h, second_batch(h)),
        "not called for batch 0 of epoch 0, but for batch 1",
    ),
    "too many batches": (lambda h: [print_error(h) for _ in range(10)], "no batch is left in this pass"),
    "an epoch twice": (lambda h: h.begin_visible(0), "epoch 0 was begun twice"),
    "an epoch that is left early": (
        lambda h: h.begin_visible(1),
        "observe was called for 0 of the 9 batches of epoch 0",
    ),
    "a state in the middle": (
        lambda h: h.state_dict(),
        "observe was called for 0 of the 9 batches of epoch 0",
    ),
    "the hidden too early": (lambda h: h.begin_hidden(), "observe was called for 0 of the 9 batches"),
}


@pytest.mark.parametrize("what", CASES)
def test_a_mistake_in_a_begun_epoch_is_named(what):
    do, message = CASES[what]
    with pytest.raises(UserError, match=message):
        do(begun())


FRESH = {
    "ids before an epoch": (lambda h: h.ids, "begin an epoch"),
    "batches read before an epoch": (
        lambda h: [print_error(h, np.array(ids)) for ids in h.batch_sampler],
        "no batch is left in this pass; begin an epoch with hiding.visible",
    ),
    "the hidden before training": (lambda h: h.begin_hidden(), "hidden samples are refreshed after training"),
    "a mode before an epoch": (lambda h: h.refresh_mode, "refresh_mode is known once the epoch is planned"),
    "an epoch beyond the last": (
        lambda h: h.begin_visible(6),
        "epoch 6 was begun, but there are 6, counted from 0",
    ),
    "a batch not observed": (skips_one, "observe was not called for batch 1 of epoch 0"),
    "a loop left early": (leaves_early, "observe was called for 1 of the 9 batches of epoch 0"),
    "the hidden never looked at": (
        leaves_the_hidden,
        "epoch 2 hid samples that were not refreshed.*hiding.hidden",
    ),
    "an epoch again": (
        lambda h: (Loop(h).run(range(2)), h.begin_visible(1)),
        "epoch 1 was begun twice|epoch 1 is done",
    ),
}


@pytest.mark.parametrize("what", FRESH)
def test_a_mistake_in_the_order_of_calls_is_named(what):
    do, message = FRESH[what]
    with pytest.raises(UserError, match=message):
        do(hiding(confidence=0.4))


def state(**changed):
    h = hiding(**changed)
    Loop(h).run(range(1))
    return h.state_dict()


def test_sizes_may_be_numpys():
    h = Hiding("kakurenbo", np.int64(N), epochs=np.int32(6), batch_size=np.int64(10))
    assert [type(size) for size in (h.n, h.epochs, h._global_batch)] == [int] * 3


def of_data(data):
    return Hiding("kakurenbo", data, epochs=6, batch_size=10)


def of_more_samples():
    h = Hiding("kakurenbo", N + 1, epochs=6, batch_size=10, seed=3)
    h.load_state_dict(state())


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(POINTS)


BUILT = {
    "a loader for the data set": (
        lambda: of_data(DataLoader(POINTS, batch_size=10)),
        "type DataLoader.*give the map-style data set",
    ),
    "a stream for the data set": (lambda: of_data(Stream()), "type Stream.*give the map-style data set"),
    "batches of nothing": (lambda: hiding(batch_size=0), "batch_size is 0, but must be .* at least 1"),
    "batches of half a sample": (
        lambda: hiding(batch_size=0.5),
        "batch_size is 0.5, but must be a whole number",
    ),
    "no batch a step": (lambda: hiding(accumulate=0), "accumulate is 0, but must be .* at least 1"),
    "no epochs": (lambda: hiding(epochs=0), "epochs is 0, but must be .* at least 1"),
    "the state of something else": (
        lambda: hiding().load_state_dict(Loop(hiding()).model.state_dict()),
        "state has format None",
    ),
    "a method nobody knows": (lambda: hiding("kakurembo"), "kakurembo.*did you mean kakurenbo"),
    "an option nobody knows": (lambda: hiding(max_fractoin=0.3), "max_fractoin.*did you mean max_fraction"),
    "an option of another": (lambda: hiding(prune_ratio=0.3), "prune_ratio is an option of infobatch"),
    "a percentage": (
        lambda: hiding(max_fraction=30.0),
        "max_fraction is 30.0, but must be in .*write 0.3 for 30 percent",
    ),
    "a graph that is kept": (
        lambda: hiding("selective_backprop", reuse_forward=True),
        "keeps the graph of its selection pass.*remove the option",
    ),
    "a choice that was not asked for": (
        lambda: chosen("selective_backprop", lambda own, ids: own.observe(ids, torch.zeros(10))),
        "no chosen batch is due; call observe for the batches that hiding.choose",
    ),
    "a choice without losses": (
        lambda: chosen("selective_backprop", lambda own, ids: own.choose(ids)),
        "choose got no losses for batch 0 .*by which selective_backprop chooses",
    ),
    "candidates that were not chosen from": (
        lambda: chosen("selective_backprop", lambda own, ids: None),
        "choose was not called for batch 0",
    ),
    "a batch without rows": (
        lambda: chosen("pdd", lambda own, ids: own.choose(ids, batch=["a"]), variant="srd"),
        "choose got a batch that holds a str, which has no rows",
    ),
    "a queue to be saved": (
        lambda: chosen("selective_backprop", lambda own, ids: own.mid_epoch_state_dict()),
        "its queue cannot be saved; save between two epochs",
    ),
    "weights renewed each step": (
        lambda: hiding("sample_importance", online="step"),
        "chooses step by step.*kakurenbo train",
    ),
    "a look that was not taken": (lambda: hiding("iswr").begin_visible(0), "hiding.whole"),
    "the state of another method": (lambda: hiding("random").load_state_dict(state()), "state has method"),
    "the state of another seed": (
        lambda: hiding(seed=4).load_state_dict(state()),
        "state has seed 3, but this run has 4",
    ),
    "the state of another data set": (of_more_samples, "state has samples 90, but this run has 91"),
    "a word that is no number": (
        lambda: from_words("--hide", "kakurenbo", "--hide-max-fraction", "much"),
        "max_fraction is 'much'",
    ),
}


@pytest.mark.parametrize("what", BUILT)
def test_a_mistake_in_what_is_asked_for_is_named(what):
    do, message = BUILT[what]
    with pytest.raises(UserError, match=message) as problem:
        do()
    assert "\n" not in str(problem.value)


def test_ranks_that_see_different_data_sets_are_all_told():
    def work(comm):
        with pytest.raises(
            UserError, match="ranks differ in the number of samples: rank 0 has 90, rank 2 has 89"
        ):
            Hiding("kakurenbo", N - comm.rank // 2, epochs=2, batch_size=10, comm=comm)

    run_in_threads(3, work)


def test_more_ranks_than_samples():
    def work(comm):
        with pytest.raises(UserError, match="2 samples for 3 ranks"):
            Hiding("everything", 2, epochs=2, batch_size=1, comm=comm)

    run_in_threads(3, work)


def test_a_loss_that_is_not_a_number_adds_nothing():
    h = begun()
    losses = torch.full((10,), 2.0)
    losses[3] = np.nan
    assert print_error(h, losses=losses).item() == pytest.approx(1.8)
