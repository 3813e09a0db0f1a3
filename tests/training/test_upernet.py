"""UperNet: images of any size, and an auxiliary head that trains and is not in the ledger."""

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F

from kakurenbo_hpc.config.job import Model
from kakurenbo_hpc.config.training_options import Training
from kakurenbo_hpc.core.batch import Batch
from kakurenbo_hpc.data.loader import plain_micro_batches
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.ddp import DdpSync
from kakurenbo_hpc.distributed.world import World
from kakurenbo_hpc.errors import JobError
from kakurenbo_hpc.training import upernet
from kakurenbo_hpc.training.learner import Learner

if find_spec("segmentation_models_pytorch") is None:
    pytest.skip("segmentation-models-pytorch is not installed", allow_module_level=True)

SHAPE, MASK, N_CLASSES = (3, 32, 48), (32, 48), 5
SMALL = {"encoder": "resnet18", "width": 16, "dropout": 0.0}


@pytest.fixture
def learner():
    training = Training(epochs=1, global_batch=2, lr=0.1, momentum=0.0, schedule="constant")
    world = World.detect(SerialComm())
    learner = Learner(training, Model(name="upernet", options=SMALL), world, N_CLASSES, SHAPE, 0, (), MASK)
    learner.join(DdpSync(world), SHAPE)
    learner.begin_epoch(0, 1.0)
    return learner


def batch(height=32, width=48):
    draw = torch.Generator().manual_seed(0)
    target = torch.randint(0, N_CLASSES, (2, height, width), generator=draw)
    target[:, :3] = -100
    [micro_batch] = plain_micro_batches(0, 2, 2)
    return Batch(micro_batch, torch.randn(2, 3, height, width, generator=draw), target)


def test_the_auxiliary_loss_trains_and_is_not_in_the_ledger(learner):
    given, network = batch(), learner.model
    before = [parameter.detach().clone() for parameter in network.parameters()]
    buffers = [buffer.clone() for buffer in network.buffers()]
    output = network(given.input)
    main, auxiliary = (F.cross_entropy(logits, given.target) for logits in output[:2])
    gradients = torch.autograd.grad(main + 0.4 * auxiliary, list(network.parameters()))
    for buffer, value in zip(network.buffers(), buffers, strict=True):
        buffer.copy_(value)
    stats = learner.step(given)
    assert output.weight == 0.4 and abs(main - auxiliary) > 1e-3
    assert stats.columns["loss"].mean().item() == pytest.approx(main.item(), rel=1e-5)
    for parameter, value, gradient in zip(network.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(parameter.detach(), value - 0.1 * gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_forward_only_passes_do_without_the_auxiliary_head(learner, mode):
    seen = []
    learner.model.auxiliary.register_forward_hook(lambda *_: seen.append(1))
    learner.forward_only(batch(), mode)
    list(learner.evaluate([batch()]))
    assert not seen
    learner.step(batch())
    assert seen


def test_a_graph_that_is_kept_for_training_holds_the_auxiliary_loss(learner):
    stats, losses = learner.forward_only(batch(), "train", keep_graph=True)
    assert (losses > stats.columns["loss"]).all() and losses.requires_grad


def test_images_are_evaluated_at_their_masks_sizes(learner):
    given = batch(45, 70)
    [stats] = learner.evaluate([given])
    with torch.no_grad():
        logits = learner.model.eval()(given.input)
    assert logits.shape == (2, N_CLASSES, 45, 70)
    loss = F.cross_entropy(logits, given.target, reduction="none")[:, 3:].flatten(1).mean(1)
    torch.testing.assert_close(stats.columns["loss"], loss)
    half = Batch(given.micro_batch, F.interpolate(given.input, (23, 35)), given.target)
    [stats] = learner.evaluate([half])
    assert stats.columns["union"].sum(1).ge(42 * 70).all() and stats.columns["loss"].isfinite().all()


def test_a_missing_library_is_told(monkeypatch):
    def missing():
        raise ModuleNotFoundError("No module named 'segmentation_models_pytorch'")

    monkeypatch.setattr(upernet, "segmentation_models", missing)
    with pytest.raises(JobError, match="upernet, which needs segmentation-models-pytorch .*pip install it"):
        upernet.UperNet(5, 3)
