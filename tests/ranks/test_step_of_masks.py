"""A step of a segmentation and its validation, on ranks and serially in double precision."""

from dataclasses import fields

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kakurenbo_hpc.config.job import Model
from kakurenbo_hpc.config.training_options import Training
from kakurenbo_hpc.core.ledger import Homes
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.data.dataset import Dataset, DatasetSplits
from kakurenbo_hpc.data.loader import Loader
from kakurenbo_hpc.distributed.ddp import DdpSync
from kakurenbo_hpc.distributed.world import World
from kakurenbo_hpc.engine.context import Context
from kakurenbo_hpc.engine.loops import evaluate
from kakurenbo_hpc.engine.pass_progress import PassProgress
from kakurenbo_hpc.order.deal import deal
from kakurenbo_hpc.rundir.watchdog.heartbeat import Heartbeat
from kakurenbo_hpc.selection.global_stats import GlobalStats
from kakurenbo_hpc.training.learner import Learner
from kakurenbo_hpc.training.model import build_model

SHAPE, MASK, LR, WEIGHT = (16, 32, 48), (32, 48), 0.5, [1.0, 2.6, 1.7]


class Images(Dataset):
    """Noise, and masks of classes 0 and 1; class 2 is in none."""

    def __init__(self, n):
        draw = torch.Generator().manual_seed(n)
        self.input, self.target = (
            torch.randn(n, *SHAPE, generator=draw),
            torch.randint(0, 2, (n, *MASK), generator=draw),
        )

    def __len__(self):
        return len(self.input)

    def __getitems__(self, request):
        return self.input[request.id], self.target[request.id]


def iou(predicted, true):
    unions = [((predicted == c) | (true == c)).sum() for c in range(3)]
    both = [((predicted == c) & (true == c)).sum() for c in range(3)]
    return np.mean([b / u for b, u in zip(both, unions, strict=True) if u])


@pytest.mark.ranks(3)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_masks_are_learned_and_measured_on_any_ranks_as_on_one(comm_of, n):
    if not (comm := comm_of(n)):
        return
    world = World.detect(comm)
    model = Model(name="deepcam_deeplabv3plus", options={"width": 0.05, "middle": 1, "norm": "group"})
    training = Training(
        epochs=1, global_batch=6, lr=LR, momentum=0.0, schedule="constant", class_weights=WEIGHT
    )
    learner = Learner(training, model, world, 3, SHAPE, 5, (), MASK)
    learner.join(DdpSync(world), SHAPE)

    train, validation = Images(5), Images(2)  # fewer than three ranks
    parts = {field.name: None for field in fields(Context)} | {
        "heartbeat": Heartbeat(),
        "pass_progress": PassProgress(),
        "world": world,
        "everyone": GlobalStats(comm),
        "learner": learner,
        "data": DatasetSplits(train, validation, 3, SHAPE, ""),
        "validation": Loader(validation, 0, world.device),
        "global_batch": 6,
        "accumulate": 1,
    }
    told, _ = evaluate(Context(**parts))

    serial = build_model(model, 3, SHAPE, 5, MASK).double()
    with torch.no_grad():
        predicted = serial(validation.input.double()).argmax(1).numpy()
    true = validation.target.numpy()

    assert list(told) == ["val_loss", "val_iou", "val_iou_corpus"]
    # A pixel between two classes may fall to either.
    assert abs(told["val_iou"] - np.mean([iou(p, t) for p, t in zip(predicted, true, strict=True)])) < 1e-3, (
        told
    )
    assert abs(told["val_iou_corpus"] - iou(predicted, true)) < 1e-3, told
    assert all(value == comm.broadcast(value) for value in told.values()), "ranks differ"

    first, last = Homes(len(train), comm.size).rows(comm.rank)
    micro_batches = deal(
        np.arange(first, last),
        np.ones(last - first, bool),
        Epoch(0, 1, 11),
        comm,
        global_batch=6,
        accumulate=1,
    )
    learner.begin_epoch(0, lr_scale=1.0)
    for batch in Loader(train, 0, world.device)(micro_batches, 0, augment=True):
        seen = learner.step(batch)
        assert all(column.shape == (len(batch.micro_batch.id),) for column in seen.columns.values())

    pixels = F.cross_entropy(
        serial(train.input.double()), train.target, torch.tensor(WEIGHT).double(), reduction="none"
    )
    pixels.mean().backward()
    pairs = list(zip(learner.model.parameters(), serial.parameters(), strict=True))
    error = torch.cat(
        [(mine.double() - (theirs - LR * theirs.grad)).flatten() for mine, theirs in pairs]
    ).norm()
    error /= torch.cat([LR * theirs.grad.flatten() for _, theirs in pairs]).norm()
    assert error < 1e-4, f"relative error {error:.2e} on {comm.size} ranks"
