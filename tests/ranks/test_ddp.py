"""DDP's options change how gradients travel, not what is trained."""

import pytest
import torch

from kakurenbo_hpc.config.job import Model, WorldOptions
from kakurenbo_hpc.config.training_options import Training
from kakurenbo_hpc.core.batch import Batch
from kakurenbo_hpc.data.loader import plain_micro_batches
from kakurenbo_hpc.distributed.gradient_sync import open_gradient_sync
from kakurenbo_hpc.distributed.world import World
from kakurenbo_hpc.errors import WorldError
from kakurenbo_hpc.training.batch_stats import SampleStatsBuffer
from kakurenbo_hpc.training.learner import Learner

pytestmark = pytest.mark.ranks(2)
(MICRO_BATCH,) = plain_micro_batches(0, 6, 6)
OPTIONS = {
    "small buckets": ({"bucket_mib": 0.001}, 1e-6),
    "static graph": ({"static_graph": True}, 1e-6),
    "fp16": ({"compression": "fp16"}, 1e-3),
}


def gradients(comm, keeps_graphs, **options):
    """Return the gradients of a step, in which ranks see different samples, and close."""
    world = World.detect(comm)
    training = Training(
        epochs=1, global_batch=12, lr=1.0, momentum=0.0, weight_decay=0.0, schedule="constant"
    )
    one = Learner(training, Model(name="small_cnn", options={"width": 4}), world, 10, (1, 8, 8), 0, ())
    sync = open_gradient_sync(WorldOptions(**options), 1, world)
    one.join(sync, (1, 8, 8))
    one.begin_epoch(0, 1.0)
    drawn = torch.Generator().manual_seed(comm.rank)
    before = torch.cat([p.detach().flatten() for p in one.model.parameters()])
    for _ in range(2):
        batch = Batch(MICRO_BATCH, torch.randn(6, 1, 8, 8, generator=drawn), torch.arange(6))
        one.step_kept([], MICRO_BATCH, batch) if keeps_graphs else SampleStatsBuffer().add(one.step(batch))
    after = torch.cat([p.detach().flatten() for p in one.model.parameters()])
    one._parallel = None
    sync.close()
    return before - after


def test_bfloat16_without_gpus_is_one_line(comm):
    with pytest.raises(
        WorldError, match="compression is bf16, which needs NCCL and GPUs, but these ranks have"
    ):
        open_gradient_sync(WorldOptions(compression="bf16"), 1, World.detect(comm))


@pytest.mark.parametrize("keeps_graphs", [False, True], ids=["hooks", "after the pass"])
@pytest.mark.parametrize(("options", "tolerance"), OPTIONS.values(), ids=OPTIONS)
def test_options_of_ddp_change_no_gradient_beyond_rounding(options, tolerance, keeps_graphs, comm):
    plain, found = gradients(comm, keeps_graphs), gradients(comm, keeps_graphs, **options)
    scale = float(plain.abs().max())
    assert torch.allclose(found, plain, rtol=tolerance, atol=tolerance * scale)
    assert "compression" not in options or not torch.equal(found, plain), "it was compressed"
    weights = comm.gather(found.numpy())
    assert (weights[0] == weights[1]).all(), "the same on all ranks"
