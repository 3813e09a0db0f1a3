"""Steps whose gradient is not finite are skipped, on the device too, and a step waits for no device."""

import pytest
import torch
from support.host_waits import HostWaits

from kakurenbo_hpc.config.job import Model
from kakurenbo_hpc.config.training_options import Training
from kakurenbo_hpc.core.batch import Batch
from kakurenbo_hpc.data.loader import plain_micro_batches
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.ddp import DdpSync
from kakurenbo_hpc.distributed.world import World
from kakurenbo_hpc.errors import TrainingError
from kakurenbo_hpc.training.batch_stats import SampleStatsBuffer
from kakurenbo_hpc.training.learner import Learner
from kakurenbo_hpc.training.optimizer import build_optimizer, load_optimizer_state

(MICRO_BATCH,) = plain_micro_batches(0, 6, 6)
FUSED = {"optimizer_options": {"fused": True}}
OPTIMIZERS = {
    "sgd": {"optimizer": "sgd"},
    "sgd without momentum": {"optimizer": "sgd", "momentum": 0.0},
    "nesterov": {"optimizer": "sgd", "nesterov": True, "clip_norm": 0.5},
    "adam": {"optimizer": "adam", "lr": 0.01},
    "adamw": {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1, "precision": "fp16"},
}


def learner(extra=(), **options):
    world = World(SerialComm(), "here", 0, 1, torch.device("cpu"))
    training = Training(**{"epochs": 2, "global_batch": 6, "lr": 0.1, "schedule": "constant", **options})
    one = Learner(training, Model(name="small_cnn", options={"width": 4}), world, 10, (1, 8, 8), 0, extra)
    one.join(DdpSync(world), (1, 8, 8))
    one.begin_epoch(0, 1.0)
    return one


def step(one, number, is_finite=True):
    """Train on a batch of this number, whose gradient is NaN if it is not to be finite."""
    drawn = torch.Generator().manual_seed(number)
    batch = Batch(MICRO_BATCH, torch.randn(6, 1, 8, 8, generator=drawn), torch.arange(6))
    hook = next(one.model.parameters()).register_hook(lambda g: g if is_finite else g * torch.nan)
    try:
        return one.step(batch)
    finally:
        hook.remove()


def weights(one):
    return torch.cat([p.detach().flatten() for p in one.model.parameters()])


@pytest.mark.parametrize("options", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_device_skips_the_steps_that_the_host_would_skip(options):
    on_device, on_host = learner(**options, **FUSED), learner(**options, **FUSED)
    on_host._steps.waits = True
    assert not on_device._steps.waits
    for number in range(20):
        for one in (on_device, on_host):
            step(one, number, is_finite=number not in (0, 3, 4, 19))
        assert torch.equal(weights(on_device), weights(on_host)), number
    assert on_device.n_skipped == on_host.n_skipped == 4, "exact, however far the count lags behind"
    assert on_device.state_dict()["skipped"] == on_host.state_dict()["skipped"]
    on_device.finish_steps()
    on_device.begin_epoch(1, 1.0)
    assert on_device.n_skipped == 0


def test_too_many_skipped_steps_end_the_run_some_steps_later_or_with_the_epoch():
    one = learner(skipped_steps=3, **FUSED)
    for number in range(5):
        step(one, number, is_finite=number != 2)
    for number in range(5, 8):
        step(one, number, is_finite=False)
    assert one.state_dict()["skipped"] == (4, 3), (
        "asking at a checkpoint, as rank 0 alone does, raises nothing"
    )
    with pytest.raises(TrainingError, match="not finite in 3 steps in a row, the last of them in epoch 1"):
        one.finish_steps()
    with pytest.raises(TrainingError):
        for number in range(20):
            step(one, number, is_finite=False)


@pytest.mark.parametrize(
    ("options", "waits"),
    [({}, True), (FUSED, False), ({"optimizer_options": {"fused": True, "dampening": 0.1}}, True)],
    ids=["not fused", "fused", "dampened"],
)
def test_an_optimizer_waits_unless_it_takes_the_decision_from_the_device(options, waits):
    assert learner(**options)._steps.waits is waits


def test_a_state_of_another_device_does_not_change_how_steps_are_taken():
    model = torch.nn.Linear(2, 2)
    plain, fused = (
        build_optimizer(Training(epochs=1, global_batch=1, lr=0.1, optimizer="adam", **options), model, 0.1)
        for options in ({}, FUSED)
    )
    load_optimizer_state(fused, plain.state_dict())
    assert all(group["fused"] for group in fused.param_groups)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"precision": "bf16", "clip_norm": 1.0},
        {"precision": "fp16", "optimizer": "adamw"},
        {"ema": 0.9, "label_smoothing": 0.1, "class_weights": [0.5] * 10},
        {"criterion": "focal", "accumulate": 2},
    ],
    ids=["plain", "bf16", "fp16", "ema", "focal"],
)
def test_a_step_and_its_statistics_read_nothing_back(options):
    one = learner(("probability", "margin", "el2n", "grad_norm", "label"), **options, **FUSED)
    step(one, 0)  # the first step allocates
    stats = SampleStatsBuffer()
    drawn = torch.randn(6, 1, 8, 8)
    target = torch.arange(6)
    # The host's copy of a decision is read when it has arrived.
    one._steps._count_until = lambda n_left: None
    with HostWaits():
        for _ in range(3):
            stats.add(one.step(Batch(MICRO_BATCH, drawn, target)))
            stats.add(one.forward_only(Batch(MICRO_BATCH, drawn, target))[0])
    with pytest.raises(AssertionError, match="waits for the device"), HostWaits():
        float(drawn.sum())
