"""The average of the weights: what it is, where it is used, and that it outlives a checkpoint."""

import copy

import pytest
import torch

from kakurenbo_hpc.config.job import Model, Training
from kakurenbo_hpc.core.batch import Batch
from kakurenbo_hpc.data.loader import plain_micro_batches
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.ddp import DdpSync
from kakurenbo_hpc.distributed.world import World
from kakurenbo_hpc.training.learner import Learner

DECAY = 0.8
(TURN,) = plain_micro_batches(0, 6, 6)


def learner(ema=DECAY):
    world = World(SerialComm(), "here", 0, 1, torch.device("cpu"))
    training = Training(epochs=1, global_batch=6, lr=0.5, schedule="constant", ema=ema)
    one = Learner(
        training, Model(name="small_cnn", options={"width": 4, "norm": "batch"}), world, 10, (1, 8, 8), 0, ()
    )
    one.join(DdpSync(world), (1, 8, 8))
    one.begin_epoch(0, 1.0)
    return one


def batch():
    torch.manual_seed(0)
    return Batch(TURN, torch.randn(6, 1, 8, 8), torch.arange(6))


def loss(one):
    return one.evaluate([batch()])[0].columns["loss"]


def test_the_average_forgets_geometrically_and_is_what_is_evaluated():
    one, want = learner(), None
    for _ in range(4):
        one.step(batch())
        now = {name: p.detach().clone() for name, p in one.model.named_parameters()}
        want = now if want is None else {name: DECAY * want[name] + (1 - DECAY) * now[name] for name in now}
    for buffer in one.model.buffers():  # as a refresh in train mode, or the mean over ranks, moves them
        buffer.add_(1)
    other = copy.deepcopy(one.model)
    other.load_state_dict(want, strict=False)  # statistics of BatchNorm stay the model's own
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(
            other.eval()(batch().input), batch().target, reduction="none"
        )
    torch.testing.assert_close(loss(one), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(loss(one), loss_of_the_model(one)), "the weights themselves say something else"


def loss_of_the_model(one):
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(
            one.model.eval()(batch().input), batch().target, reduction="none"
        )


@pytest.mark.parametrize("ema", [0.0, DECAY])
def test_a_state_that_is_restored_learns_and_evaluates_alike(ema):
    one, other = learner(ema), learner(ema)
    for _ in range(2):
        one.step(batch())
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for each in (one, other):
        each.step(batch())
    assert torch.equal(loss(one), loss(other))


def test_an_example_state_has_every_tensor_of_a_later_one_and_changes_nothing():
    one = learner()
    before = copy.deepcopy(one.state_dict())
    example = tensors(one.example_state())
    assert {path: t.tolist() for path, t in tensors(one.state_dict()).items()} == {
        path: t.tolist() for path, t in tensors(before).items()
    }
    one.step(batch())
    assert {path: t.shape for path, t in tensors(one.state_dict()).items()} == {
        path: t.shape for path, t in example.items()
    }


def tensors(state, path=()):
    found = {}
    for name, part in (
        state.items()
        if isinstance(state, dict)
        else enumerate(state)
        if isinstance(state, list | tuple)
        else ()
    ):
        found |= {(*path, name): part} if isinstance(part, torch.Tensor) else tensors(part, (*path, name))
    return found
