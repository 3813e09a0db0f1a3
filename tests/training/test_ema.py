"""The average of the weights: what it is, where it is used, and that it outlives a checkpoint."""

import copy
from functools import partial

import pytest
import torch

from kakurenbo_hpc.config.job import Model
from kakurenbo_hpc.config.training_options import Training
from kakurenbo_hpc.core.batch import Batch
from kakurenbo_hpc.data.loader import plain_micro_batches
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.ddp import DdpSync
from kakurenbo_hpc.distributed.world import World
from kakurenbo_hpc.training.learner import Learner
from kakurenbo_hpc.training.state_size import learner_bytes
from kakurenbo_hpc.training.weight_average import WeightAverage, average_decay

DECAY = 0.8
MODEL = Model(name="small_cnn", options={"width": 4, "norm": "batch"})
(TURN,) = plain_micro_batches(0, 6, 6)


def learner(ema=DECAY, **more):
    world = World(SerialComm(), "here", 0, 1, torch.device("cpu"))
    training = Training(epochs=1, global_batch=6, lr=0.5, schedule="constant", ema=ema, **more)
    one = Learner(training, MODEL, world, 10, (1, 8, 8), 0, ())
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


@pytest.mark.parametrize(
    "more",
    [{"momentum": 0.9}, {"optimizer": "adamw"}, {"optimizer": "lars"}, {"optimizer": "lamb"}, {"ema": 0}],
)
def test_the_bytes_of_a_checkpoint_are_known_without_a_learner(more):
    one = learner(**more)
    size = learner_bytes(one._training, MODEL, 10, (1, 8, 8))
    assert size == pytest.approx(sum(t.nbytes for t in tensors(one.example_state()).values()), abs=64)


class ReferenceAverage(torch.optim.swa_utils.AveragedModel):
    """ExponentialMovingAverage of torchvision's references/classification/utils.py."""

    def __init__(self, model, decay):
        super().__init__(model, avg_fn=lambda average, now, n_averaged: decay * average + (1 - decay) * now)


def test_an_average_in_torchvisions_style_is_that_of_its_references():
    epochs, steps, every, batch_size, decay, warmup = 6, 5, 2, 16, 0.98, 2
    training = Training(
        epochs=epochs,
        global_batch=batch_size,
        lr=1.0,
        ema=decay,
        ema_every=every,
        ema_style="torchvision",
        warmup_epochs=warmup,
    )
    model = torch.nn.Linear(3, 2)
    ours = WeightAverage(model, training, batch_size)
    # references/classification/train.py, with args.world_size 1
    adjust = 1 * batch_size * every / epochs
    alpha = min(1.0, (1.0 - decay) * adjust)
    model_ema = ReferenceAverage(model, decay=1.0 - alpha)
    for epoch in range(epochs):
        for i in range(steps):
            with torch.no_grad():
                model.weight.normal_()
            ours.update(model, epoch, i)
            if i % every == 0:
                model_ema.update_parameters(model)
                if epoch < warmup:
                    model_ema.n_averaged.fill_(0)
            torch.testing.assert_close(ours.network(model).weight, model_ema.module.weight)


def test_the_decay_of_kakurenbo_s_resnet_50():
    training = Training(
        epochs=600, global_batch=2048, lr=1.0, ema=0.99998, ema_every=32, ema_style="torchvision"
    )
    assert average_decay(training, 2048) == pytest.approx(0.9978, abs=5e-5)


@pytest.mark.parametrize("norm", [1e-3, 1e3])
def test_a_long_gradient_is_clipped(norm):
    one, other = learner(clip_norm=norm), learner()
    before = torch.nn.utils.parameters_to_vector(one.model.parameters()).detach().clone()
    moves = []
    for each in (one, other):
        each.step(batch())
        after = torch.nn.utils.parameters_to_vector(each.model.parameters()).detach()
        moves.append(after - before)
    assert moves[0].norm() == pytest.approx(0.5 * min(norm, 2 * float(moves[1].norm())), rel=1e-3)


def test_channels_last_is_the_same_network():
    one, other = learner(channels_last=True), learner()
    for each in (one, other):
        each.step(batch())
    assert one.model.features[1][0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(loss(one), loss(other), rtol=1e-4, atol=1e-5)


def test_a_network_is_compiled_and_its_state_keeps_its_names(monkeypatch):
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    with monkeypatch.context() as patched:
        patched.setattr(torch, "compile", partial(torch.compile, backend=backend))
        one, other = learner(compile=True), learner()
        for each in (one, other):
            each.step(batch())
    assert compiled and one.state_dict()["model"].keys() == other.state_dict()["model"].keys()
    one.example_state()
    torch.testing.assert_close(loss(one), loss(other))


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
