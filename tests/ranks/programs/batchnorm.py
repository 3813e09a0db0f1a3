"""After an epoch with BatchNorm on batches of their own, all ranks have the mean of their statistics."""

import numpy as np
import torch

from kakurenbo_hpc.config.job import Model, Training
from kakurenbo_hpc.core.ledger import Homes
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.data import DATASETS, open_data
from kakurenbo_hpc.data.loader import Loader
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.ddp import DdpSync
from kakurenbo_hpc.distributed.world import World, open_comm
from kakurenbo_hpc.order.deal import deal
from kakurenbo_hpc.training.learner import Learner

comm = open_comm()
world = World.detect(comm)
data = open_data(DATASETS["digits"](name="digits"), seed=3, comm=SerialComm())
training = Training(epochs=1, global_batch=60, lr=0.1)
learner = Learner(
    training, Model(name="small_cnn", options={"norm": "batch"}), world, 10, data.shape, seed=5, extra=()
)
learner.join(DdpSync(world), data.shape)


def statistics() -> np.ndarray:
    return torch.cat([b.flatten().double() for b in learner.model.buffers() if b.is_floating_point()]).numpy()


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
if comm.rank == 0:
    print("statistics are the mean")
