"""One step of the learner on these ranks against the same step, computed serially in double precision.

Arguments: entries, accumulated batches, precision, what averages gradients.
"""

import sys

import numpy as np
import torch
import torch.nn.functional as F

from kakurenbo_hpc.config.job import Model, WorldOptions
from kakurenbo_hpc.config.training_options import Training
from kakurenbo_hpc.core.ledger import Homes
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.data import DATASETS, open_data
from kakurenbo_hpc.data.dataset import Dataset, ReadRequest
from kakurenbo_hpc.data.loader import Loader
from kakurenbo_hpc.distributed.comm import Comm, SerialComm
from kakurenbo_hpc.distributed.gradient_sync import open_gradient_sync
from kakurenbo_hpc.distributed.world import World, open_comm
from kakurenbo_hpc.order.deal import deal
from kakurenbo_hpc.training.learner import Learner
from kakurenbo_hpc.training.model import build_model

LR = 0.5


class WithOneBroken(Dataset):
    """A data set of which id 7 is not a number."""

    def __init__(self, whole):
        self._whole = whole

    def __len__(self):
        return len(self._whole)

    def __getitems__(self, request):
        input, target = self._whole.__getitems__(request)
        input[torch.from_numpy(request.id == 7)] = torch.nan
        return input, target


def check_step(comm: Comm, n: int, accumulate: int, precision: str, gradients: str) -> None:
    """Take a step on n entries, whose weights differ and one of whose inputs is NaN, and compare."""
    world = World.detect(comm)
    data = open_data(DATASETS["digits"](name="digits"), seed=3, comm=SerialComm())
    model = Model(name="small_cnn", options={"width": 8})
    training = Training(
        epochs=1,
        global_batch=60,
        accumulate=accumulate,
        lr=LR,
        momentum=0.0,
        precision=precision,
        schedule="constant",
        label_smoothing=0.1,
    )
    learner = Learner(training, model, world, 10, data.shape, seed=5, extra=())
    learner.join(open_gradient_sync(WorldOptions(gradients=gradients), accumulate, world), data.shape)

    epoch = Epoch(0, 1, 11)
    first, last = Homes(n, comm.size).rows(comm.rank)
    ids = np.arange(first, last)
    weight_of = (0.5 + np.arange(n) % 5).astype(np.float32)
    micro_batches = deal(
        ids,
        np.ones(len(ids), bool),
        epoch,
        comm,
        global_batch=60,
        accumulate=accumulate,
        weight=weight_of[ids],
    )
    assert micro_batches.steps == 1 and len(micro_batches) == accumulate
    source = WithOneBroken(data.train)
    learner.begin_epoch(0, lr_scale=1.0)
    counted = 0
    for batch in Loader(source, 0, world.device)(micro_batches, 0, augment=True):
        learner.step(batch)
        counted += len(batch.micro_batch.id) * batch.micro_batch.counts
    assert int(comm.sum(np.array([counted]))[0]) == n, "an entry was lost or counted twice"

    serial = build_model(model, 10, data.shape, seed=5).double()
    input, target = data.train.__getitems__(ReadRequest(np.arange(n), np.zeros(n, np.int32), 0, True))
    losses = F.cross_entropy(serial(input.double()), target, reduction="none", label_smoothing=0.1)
    fair = torch.from_numpy(weight_of).double()
    if n > 7:
        fair[7] = 0  # adds nothing; but the mean is still over all n that count
    (losses * fair).sum().div(n).backward()

    # Half precision rounds at 2**-11 or 2**-8 in every layer; an entry lost or counted twice would be off by
    # far more.
    tolerance = {"fp32": 1e-5, "fp16": 0.05, "bf16": 0.2}[precision]
    pairs = list(zip(learner.model.parameters(), serial.parameters(), strict=True))
    error = torch.cat(
        [(mine.double() - (theirs - LR * theirs.grad)).flatten() for mine, theirs in pairs]
    ).norm()
    error /= torch.cat([LR * theirs.grad.flatten() for _, theirs in pairs]).norm()
    assert error < tolerance, f"relative error {error:.2e} on {comm.size} ranks"


if __name__ == "__main__":
    comm, words = open_comm(), sys.argv[1:]
    check_step(comm, int(words[0]), int(words[1]), *words[2:])
    if comm.rank == 0:
        print("the same step")
