"""The gradient is the mean of weight x loss over the global batch, however it is spread out."""

import numpy as np
import pytest
import torch
from ranks.programs.one_step import check_step

from kakurenbo_hpc.config.job import Model
from kakurenbo_hpc.config.training_options import Training
from kakurenbo_hpc.core.ledger import Homes
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.data import DATASETS, open_data
from kakurenbo_hpc.data.loader import Loader
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.ddp import DdpSync
from kakurenbo_hpc.distributed.world import World
from kakurenbo_hpc.order.deal import deal
from kakurenbo_hpc.training.learner import Learner

pytestmark = pytest.mark.ranks(3)
CASES = [
    (1, 50, 1, "fp32"),
    (2, 50, 1, "fp32"),
    (3, 50, 1, "fp32"),
    (3, 50, 3, "fp32"),  # 17, 17 and 16 entries, each in three accumulated batches
    (3, 2, 1, "fp32"),  # one rank has nothing but a filler
    (2, 50, 2, "fp16"),  # loss scaling
    (2, 50, 1, "bf16"),
]


@pytest.mark.parametrize(("n", "entries", "accumulate", "precision"), CASES)
def test_a_step_equals_the_serial_double_precision_step(comm_of, n, entries, accumulate, precision):
    if comm := comm_of(n):
        check_step(comm, entries, accumulate, precision, "ddp")


@pytest.mark.parametrize("n", [1, 3])
def test_batchnorm_statistics_are_the_mean_of_all_ranks(comm_of, n):
    """After an epoch with BatchNorm on batches of their own."""
    if not (comm := comm_of(n)):
        return
    world = World.detect(comm)
    data = open_data(DATASETS["digits"](name="digits"), seed=3, comm=SerialComm())
    training = Training(epochs=1, global_batch=60, lr=0.1)
    model = Model(name="small_cnn", options={"norm": "batch"})
    learner = Learner(training, model, world, 10, data.shape, seed=5, extra=())
    learner.join(DdpSync(world), data.shape)

    def statistics() -> np.ndarray:
        buffers = learner.model.buffers()
        return torch.cat([b.flatten().double() for b in buffers if b.is_floating_point()]).numpy()

    assert all((s == statistics()).all() for s in comm.gather(statistics())), "settling DDP left no trace"
    ids = np.arange(*Homes(600, comm.size).rows(comm.rank))
    learner.begin_epoch(0, 1.0)
    for batch in Loader(data.train, 0, world.device)(deal(ids, ids >= 0, Epoch(0, 1, 1), comm, 60), 0, True):
        learner.step(batch)
    own = comm.gather(statistics())
    assert comm.size == 1 or (own[0] != own[1]).any(), "nobody overwrote a rank's own"
    learner.average_statistics()
    assert np.allclose(statistics(), np.mean(own, axis=0), rtol=1e-6)
    weights = comm.gather(torch.cat([p.detach().flatten() for p in learner.model.parameters()]).numpy())
    assert all((w == weights[0]).all() for w in weights), "parameters are alike at every step"
