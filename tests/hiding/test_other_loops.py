"""Loops and loaders of other libraries: timm, torchvision's references, accelerate, Lightning."""

import threading
from functools import partial

import numpy as np
import pytest
import torch
from support.own_loops import POINTS, TARGET, Loop, N, hiding
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Subset,
    WeightedRandomSampler,
)
from tqdm import tqdm

from kakurenbo_hpc import Hiding
from kakurenbo_hpc.core.torchvision_compat import timm
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.errors import UserError
from kakurenbo_hpc.hiding import same_calls

timm()  # declares what torchvision misses beside a torch without CUDA

from timm.data.loader import MultiEpochsDataLoader, create_loader  # noqa: E402
from timm.optim import Lookahead  # noqa: E402
from timm.scheduler.cosine_lr import CosineLRScheduler  # noqa: E402


class Images(Dataset):
    """Images that timm's loader takes, the target of each its class."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return torch.full((3, 4, 4), int(TARGET[i]), dtype=torch.uint8), int(TARGET[i])


class Grouped(BatchSampler):
    """Batches of one aspect ratio, as torchvision's references for detection make them."""


class Stream(IterableDataset):
    def __len__(self):
        return N

    def __iter__(self):
        return iter(POINTS)


def timms(**changed):
    """timm's loader as its train.py makes it."""
    return create_loader(
        Images(), (3, 4, 4), 10, is_training=True, num_workers=0, device=torch.device("cpu"), **changed
    )


def of_accelerate(h):
    data_loader = pytest.importorskip("accelerate.data_loader")
    return data_loader.prepare_data_loader(own(h), torch.device("cpu"), num_processes=2, process_index=0)


def of_lightning(h):
    distributed = pytest.importorskip("lightning.fabric.utilities.distributed")
    wrapper = distributed.DistributedSamplerWrapper(h.sampler, num_replicas=2, rank=0)
    return DataLoader(POINTS, batch_size=10, sampler=wrapper)


def own(h, **changed):
    return DataLoader(POINTS, batch_sampler=h.batch_sampler, **changed)


def shuffled(h=None):
    return DataLoader(POINTS, batch_size=10, shuffle=True)


# A loader that does not read by hiding

REFUSED = {
    "shuffled": (shuffled, r"reads by RandomSampler \(shuffle=True.*batch_sampler=hiding.batch_sampler"),
    "in order": (lambda h: DataLoader(POINTS, batch_size=10), "reads by SequentialSampler; give"),
    "a progress bar around it": (lambda h: tqdm(shuffled(), disable=True), "reads by RandomSampler"),
    "weighted": (
        lambda h: DataLoader(POINTS, batch_size=10, sampler=WeightedRandomSampler([1.0] * N, N)),
        "reads by WeightedRandomSampler",
    ),
    "distributed": (
        lambda h: DataLoader(POINTS, batch_size=10, sampler=DistributedSampler(POINTS, 2, 0)),
        r"reads by DistributedSampler \(hiding deals the samples to ranks itself\)",
    ),
    "timm": (lambda h: timms(), r"reads by RandomSampler.*hiding.rebuild_loader\(loader\)"),
    "timm, read ahead": (
        lambda h: MultiEpochsDataLoader(POINTS, batch_sampler=h.batch_sampler),
        r"reads by _RepeatSampler \(it reads ahead into the next pass: leave out .* use_multi_epochs_loader",
    ),
    "accelerate on two processes": (of_accelerate, r"BatchSamplerShard \(accelerate .* do not prepare"),
    "Lightning on two processes": (of_lightning, "use_distributed_sampler=False"),
    "a stream": (lambda h: DataLoader(Stream(), batch_size=10), "Stream, an IterableDataset"),
    "another hiding's": (lambda h: own(hiding()), "reads by BatchSampler"),
    "a part of the data": (
        lambda h: DataLoader(Subset(POINTS, range(80)), batch_sampler=h.batch_sampler),
        "data set has 80 samples, but hiding's has 90",
    ),
    "batches by groups": (
        lambda h: DataLoader(POINTS, batch_sampler=Grouped(h.sampler, 10, False)),
        "reads by Grouped; give",
    ),
    "batches of another size": (
        lambda h: DataLoader(POINTS, sampler=h.sampler, batch_size=20),
        "batch_size is 20, but hiding's is 10",
    ),
    "batches as they arrive": (lambda h: own(h, num_workers=2, in_order=False), "in_order=True"),
}


@pytest.mark.parametrize("loader", REFUSED)
def test_a_loader_that_does_not_read_by_hiding_is_refused_before_its_first_batch(loader):
    make, message = REFUSED[loader]
    h = hiding()
    with pytest.raises(UserError, match=message) as problem:
        h.visible(0, make(h))
    assert "\n" not in str(problem.value)


def train_unseen(h, epoch, loader):
    """A loop that somebody else runs: hiding does not see the loader, and its ids are believed."""
    h.begin_visible(epoch)
    n = 0
    for batch in loader:
        try:
            forward(h, h.ids, len(batch[1]))
        except UserError as problem:
            return n, str(problem)
        n += 1
    return n, ""


def forward(h, ids, k=None):
    k = k or len(ids)
    parameter = torch.ones(k, requires_grad=True)
    return h.observe(ids, parameter * 1, torch.ones(k, 3), torch.zeros(k, dtype=torch.int64)), parameter


@pytest.mark.parametrize(
    "loader", ["shuffled", "in order", "a progress bar around it", "weighted", "timm", "another hiding's"]
)
def test_a_loader_that_hiding_never_saw_is_noticed_at_its_first_batch(loader):
    h, other = hiding(), hiding()
    other.begin_visible(0)
    made = own(other) if loader == "another hiding's" else REFUSED[loader][0](h)
    n, problem = train_unseen(h, 0, made)
    assert n == 0 and "did not read batch 0 of epoch 0 by hiding's samplers" in problem


def test_a_loader_that_reads_ahead_is_noticed_at_the_first_batch_of_the_next_pass():
    h = hiding("random")
    loader = MultiEpochsDataLoader(POINTS, batch_sampler=h.batch_sampler, num_workers=1)
    assert train_unseen(h, 0, loader) == (7, "")
    h.begin_hidden()
    n, problem = train_unseen(h, 1, loader)
    assert n == 0 and "did not read batch 0 of epoch 1 by hiding's samplers in this pass" in problem


def test_batches_that_are_dealt_to_ranks_again_are_noticed_at_the_end_of_the_pass():
    h = hiding()
    train_unseen(h, 0, of_accelerate(h))
    with pytest.raises(UserError, match="for 5 of the 9 batches.*nothing deal its batches to ranks again"):
        h.begin_hidden()


def test_a_stream_that_has_a_length_is_no_data_set():
    with pytest.raises(UserError, match="of type Stream; give the map-style data set"):
        Hiding("random", Stream(), epochs=2, batch_size=10)


# A loader that reads by hiding, whoever made it


def of_one_accelerate(h):
    return pytest.importorskip("accelerate").Accelerator(cpu=True).prepare(own(h))


READ = {
    "timm": lambda h: h.rebuild_loader(timms()),
    "timm without its prefetcher": lambda h: h.rebuild_loader(timms(use_prefetcher=False)),
    "a shuffled loader": lambda h: h.rebuild_loader(shuffled()),
    "a read-ahead loader": lambda h: h.rebuild_loader(
        MultiEpochsDataLoader(POINTS, batch_size=10, shuffle=True)
    ),
    "accelerate on one process": of_one_accelerate,
    "a progress bar": lambda h: tqdm(own(h), disable=True),
    "ids in memory": lambda h: ((None, TARGET[ids]) for ids in h.batch_sampler),
    "ids as the index": lambda h: DataLoader(POINTS, sampler=h.batch_sampler, batch_size=None),
}


@pytest.mark.parametrize("how", READ)
def test_what_the_loader_gives_belongs_to_the_ids(how):
    h = hiding("random", fraction=0.3)
    for epoch in range(2):
        h.begin_visible(epoch)
        loader, seen = READ[how](h), []
        for ids, (_, target) in h.visible(epoch, loader):
            assert torch.equal(target, TARGET[ids])
            forward(h, ids)
            seen.extend(ids)
        assert len(set(seen)) == h.metrics["n_backward"] == 63
        h.begin_hidden()


# Loops of torchvision's references' shape


def log_every(iterable):
    """The shape of torchvision's MetricLogger: a length, and a generator over it."""
    n = len(iterable)
    for i, batch in enumerate(iterable):
        assert i < n
        yield batch


def test_a_pass_begins_at_the_call_and_has_its_own_length():
    h = hiding("random", fraction=0.3)
    loader, lengths = own(h), []
    for epoch in range(3):
        h.batch_sampler.set_epoch(epoch)
        h.sampler.set_epoch(epoch)
        batches = h.visible(epoch, loader)
        lengths.append((len(batches), len(loader)))
        for ids, _ in log_every(batches):
            forward(h, ids)
        assert len(h.hidden(loader)) == 0 and list(h.hidden(loader)) == []
        assert len(batches) == lengths[-1][0]
    assert lengths == [(7, 7)] * 3


def test_passes_that_were_begun_are_not_begun_again():
    plain, begun = Loop(hiding("iswr")), Loop(hiding("iswr"))
    h = begun.hiding
    lines = plain.run(range(2))
    for epoch in range(2):
        h.begin_whole(epoch)
        for ids, (inputs, target) in h.whole(epoch, begun.loader):
            begun.observe(ids, inputs, target)
        h.begin_visible(epoch)
        for ids, (inputs, target) in h.visible(epoch, begun.loader):
            begun.observe(ids, inputs, target).backward()
            begun.optimizer.step()
            begun.optimizer.zero_grad()
        assert h.metrics == lines[epoch]
        list(h.hidden(begun.loader))


def test_the_batches_of_a_pass_that_is_over_are_refused():
    h = hiding()
    old = iter(h.visible(0, own(h)))
    for _ in range(9):
        forward(h, next(old)[0])
    h.begin_hidden()
    h.begin_visible(1)
    kept = h.visible(1, own(h))
    for ids, _ in kept:
        forward(h, ids)
    list(h.hidden(own(h)))
    h.begin_visible(2)
    with pytest.raises(UserError, match="visible pass of epoch 1, but the visible pass of epoch 2 was begun"):
        list(kept)


# Who divides the loss


def divide(loss, n):
    (loss / n).backward()


def of_accelerator(loss, n):
    pytest.importorskip("accelerate").Accelerator(cpu=True, gradient_accumulation_steps=n).backward(loss)


def gradients(divide, **changed):
    h, found = hiding(**{"accumulate": 2} | changed), []
    for ids, _ in h.visible(0, own(h)):
        loss, parameter = forward(h, ids)
        divide(loss, h.accumulate)
        found.append(parameter.grad[0].item())
    return found


@pytest.mark.parametrize("by", [divide, of_accelerator])
def test_a_loss_that_the_loop_divides_is_divided_once(by):
    once = gradients(lambda loss, n: loss.backward())
    assert gradients(by, loop_divides=True) == pytest.approx(once, rel=1e-6)
    with pytest.raises(UserError, match="divides the loss by 2, and so does observe.*loop_divides=True"):
        gradients(by)


def test_a_loss_that_nobody_divides_is_noticed():
    with pytest.raises(UserError, match="does not divide the loss by 2, and nor does observe"):
        gradients(lambda loss, n: loss.backward(), loop_divides=True)


def test_a_gradient_scaler_hides_who_divides():
    assert len(gradients(lambda loss, n: (loss * 65536 / n).backward())) == 10


def test_one_batch_a_step_is_nobodys_to_divide():
    assert len(gradients(divide, accumulate=1)) == 9


# Schedules stepped by updates


def test_progress_counts_every_epoch_the_same():
    h = hiding("random", fraction=0.3, accumulate=2, batch_size=5, epochs=3)
    loader, found = own(h), [h.progress]
    for epoch in range(3):
        for i, (ids, _) in enumerate(h.visible(epoch, loader)):
            forward(h, ids)
            if i % 2:
                found.append(h.progress)
        list(h.hidden(loader))
        assert h.progress == (epoch + 1) / 3
    assert found == pytest.approx(np.linspace(0, 1, 22))
    assert found == sorted(found)


def test_timms_schedule_by_updates_ends_as_it_does_when_everything_is_trained():
    def last_rate(method, **options):
        h = hiding(method, **options)
        loader, optimizer = own(h), torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0)
        n_updates = len(loader) * h.epochs
        schedule = CosineLRScheduler(optimizer, t_initial=n_updates, t_in_epochs=False, lr_min=1e-4)
        for epoch in range(h.epochs):
            for ids, _ in h.visible(epoch, loader):
                forward(h, ids)
                schedule.step_update(round(h.progress * n_updates))
            list(h.hidden(loader))
        return optimizer.param_groups[0]["lr"]

    assert last_rate("random", fraction=0.5) == last_rate("everything") == 1e-4


# The rate of optimizers that others wrap


def of_prepared(optimizer):
    return pytest.importorskip("accelerate").Accelerator(cpu=True).prepare(optimizer)


@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, of_prepared, Lookahead])
def test_the_rate_is_scaled_once_in_every_step_however_often_it_is_asked_for(wrap):
    h, parameter = hiding("random", fraction=0.5, scale_lr=True), torch.ones(1, requires_grad=True)
    inner = torch.optim.SGD([parameter], lr=0.1)
    optimizer = wrap(inner)
    h.begin_visible(0)
    for n_steps, of in ((1, optimizer), (2, optimizer), (3, inner)):
        h.scale_lr(of)
        parameter.grad = torch.ones(1)
        optimizer.step()
        assert h.lr_scale == 2 and parameter.item() == pytest.approx(1 - n_steps * 0.1 * 2)
    assert inner.param_groups[0]["lr"] == 0.1


# Calls

BAD_CALLS = {
    "epochs from 1": (lambda: hiding().visible(1, []), "epoch 1 was begun, but none is done; count from 0"),
    "epochs as floats": (lambda: hiding().visible(0.0, []), "epoch 0.0 was begun; count epochs from 0"),
    "a number of epochs as a float": (
        lambda: hiding(epochs=3.0),
        "epochs is 3.0, but must be a whole number",
    ),
    "a warm-up of no number": (
        lambda: hiding(warmup_epochs=None),
        "warmup_epochs is None, but must be a number",
    ),
    "no method": (lambda: hiding(None), "method is None; give the name of a method"),
    "an optimizer without hooks": (
        lambda: hiding().scale_lr(POINTS),
        "scale_lr got TensorDataset, whose step runs no hooks; give the optimizer of torch.optim",
    ),
    "a list for a loader": (
        lambda: hiding().rebuild_loader([]),
        "list is no DataLoader; make one with batch_sampler=hiding.batch_sampler",
    ),
}


@pytest.mark.parametrize("what", BAD_CALLS)
def test_a_bad_call_is_one_line(what):
    do, message = BAD_CALLS[what]
    with pytest.raises(UserError, match=message) as problem:
        do()
    assert "\n" not in str(problem.value)


def one_epoch(comm, then):
    h = hiding("random", comm=comm, batch_size=5)
    for ids, _ in h.visible(0, own(h)):
        forward(h, ids)
    h.begin_hidden()
    return then(comm, h)


def save_on_rank_zero(comm, h, go_on):
    if comm.rank == 0:
        h.state_dict()
    return go_on(h)


def test_a_state_that_only_rank_zero_takes_is_noticed_at_the_others_next_call():
    work = partial(one_epoch, then=partial(save_on_rank_zero, go_on=lambda h: h.begin_visible(1)))
    with pytest.raises(UserError, match=r"rank 0 calls state_dict, but rank 1 calls begin_visible\(1\)"):
        run_in_threads(2, work)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_rank_zero_does_not_wait_for_ever_for_a_state(monkeypatch, capsys):
    monkeypatch.setattr(same_calls, "SHORTEST_WAIT_S", 0.2)
    work = partial(one_epoch, then=partial(save_on_rank_zero, go_on=lambda h: None))
    with pytest.raises(threading.BrokenBarrierError):  # as comm.abort ends ranks in threads
        run_in_threads(2, work)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()
    assert "rank 0 calls state_dict, but not all other ranks do" in capsys.readouterr().err
