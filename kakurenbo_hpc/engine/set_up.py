"""Set-up of a run on one rank: data, learner and recording, put together as its `Context`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..config.job import Job
from ..config.training_options import Training
from ..core.lazy_dynamo import defer_dynamo
from ..core.ledger import Homes
from ..data import open_data
from ..data.dataset import DatasetSplits
from ..data.loader import Loader
from ..distributed.world import World
from ..errors import DataError, JobError
from ..local_data.shards import ShardLoader, Shards
from ..rundir.console import Console
from ..rundir.watchdog.heartbeat import Heartbeat
from ..selection.batch_level import BatchMethod
from ..selection.global_stats import GlobalStats
from ..selection.method import Method
from ..selection.online_subset import OnlineSubset
from ..training.learner import Learner
from ..training.model import needs_two_samples
from ..training.pretrained import load_weights, read_weights
from .context import Context
from .pass_progress import PassProgress
from .vector_pass import VectorPass


@dataclass(frozen=True)
class Recording:
    """What keeps track of an epoch while it runs."""

    pass_progress: PassProgress = field(default_factory=PassProgress)
    heartbeat: Heartbeat = field(default_factory=Heartbeat)


def set_up(
    job: Job,
    world: World,
    method: Method,
    recording: Recording | None = None,
    scratch: str | None = None,
    directory: Path | None = None,
) -> Context:
    """Return the context of a job's epochs under this method. Collective.

    With ``data.placement`` local, ranks read from node-local stores that are yet to be filled.

    Args:
        job: its selection is not used.
        world: the ranks.
        method: the selection method.
        recording: of a run that can be resumed and watched; a new one if not given.
        scratch: a folder on each node's own disk, for node-local data.
        directory: the run directory, if there is one.

    Raises:
        UserError: on all ranks alike.
    """
    defer_dynamo()
    everyone, recording = GlobalStats(world.comm), recording or Recording()
    data = open_data(job.data, job.seed, world.comm, directory)
    everyone.agree((data.fingerprint, len(data.train)), "the data set")
    method = method.of_data(data.n_classes)
    n = len(data.train)
    global_batch = world.comm.run_or_raise_together(lambda: global_batch_of(job, n, world.size))
    training = world.comm.run_or_raise_together(lambda: job.training.in_epochs(n, global_batch))
    shards = _open_shards(job, data, world, scratch)
    data = shards.with_local_files(data) if shards else data
    train = Loader(data.train, job.data.workers, world.device)
    context = Context(
        world=world,
        everyone=everyone,
        homes=Homes(n, world.size),
        method=method,
        data=data,
        shards=shards,
        train=ShardLoader(train, shards) if shards else train,
        validation=Loader(data.validation, job.data.workers, world.device),
        epochs=training.epochs,
        global_batch=global_batch,
        accumulate=job.training.accumulate,
        learner=_build_learner(job, training, data, method, global_batch, world),
        console=Console(world.rank, training.epochs),
        pass_progress=recording.pass_progress,
        heartbeat=recording.heartbeat,
    )
    if not isinstance(method, OnlineSubset):
        return context
    world.comm.run_or_raise_together(lambda: _check_online(method, job, context.epochs))
    return replace(context, vector_pass=VectorPass(method, context, "selection.method"))


def _check_online(method: OnlineSubset, job: Job, epochs: int) -> None:
    if job.data.placement == "local":
        raise JobError(
            f"selection.method is {method.method}, which passes samples forward in blocks of their own, but "
            "data.placement is local; set it to shared"
        )
    try:
        method.check_run(epochs, job.data)
    except ValueError as problem:
        raise JobError(f"{job.name}: {problem}") from None


def global_batch_of(job: Job, n: int, n_ranks: int) -> int:
    """Return the global batch of a job on n samples and this many ranks.

    Raises:
        DataError: there are fewer samples than ranks.
        JobError: the batch has no sample for each of them.
    """
    if n_ranks > n:
        raise DataError(f"{job.data.name} has {n} samples for {n_ranks} ranks; use at most one rank a sample")
    try:
        return job.training.batch(n_ranks)
    except ValueError as problem:
        raise JobError(f"{problem}") from None


def _open_shards(job: Job, data: DatasetSplits, world: World, scratch: str | None) -> Shards | None:
    """Return this rank's node-local samples; None where all ranks read all samples."""
    if job.data.placement != "local":
        return None
    return world.comm.run_or_raise_together(lambda: Shards(job.data, data, scratch, world))


def begin_with_weights(job: Job, context: Context) -> None:
    """Load the weights that the job begins with, if it names any, on all ranks. Collective.

    Raises:
        UserError: on all ranks alike, they are missing, damaged, or another network's.
    """
    if (path := job.model.weights_from) is None:
        return
    comm, network = context.world.comm, context.learner.model
    weights = comm.on_rank_zero(lambda: read_weights(Path(path)))
    done = comm.run_or_raise_together(lambda: load_weights(network, weights, job.model))
    context.console.print_line(done)


def _smallest_part(n: int, max_hidden_fraction: float, global_batch: int, n_parts: int) -> int:
    """Return the fewest samples that a rank trains on at once, over all numbers that an epoch may hide.

    Where a method does not know how many, a full global batch is taken to be left.

    Args:
        n: samples.
        max_hidden_fraction: of them.
        global_batch: samples of one step at most.
        n_parts: ranks times accumulated batches.
    """
    fewest = math.ceil(n * (1 - max_hidden_fraction)) or min(n, global_batch)
    steps = np.arange(-(-fewest // global_batch), -(-n // global_batch) + 1)
    visible = np.maximum((steps - 1) * global_batch + 1, fewest)  # the fewest samples that make so many steps
    return int((visible // steps).min()) // n_parts


def _find_single_sample(job: Job, method: Method, n: int, global_batch: int, n_ranks: int) -> str | None:
    """Return how a rank may come to train on one sample alone, and what to do; None if it never does."""
    n_parts, hidden = n_ranks * job.training.accumulate, method.max_hidden_fraction
    if _smallest_part(n, hidden, global_batch, n_parts) < 2:
        return (
            f"a global batch of {global_batch} in {n_parts} parts (ranks x accumulate) can leave one to a "
            "part; raise training.global_batch, or take fewer ranks"
        )
    if job.data.placement == "local" and method.may_repeat:
        return (
            f"data.placement is local, where {method.method} can leave one to a rank, as a sample is "
            "repeated where it lies; set it to shared"
        )
    if not isinstance(method, BatchMethod):
        return None
    selection = method.selection_pass(global_batch)
    if not selection.queues or not selection.only_full:
        return (
            f"{method.method} can leave one to a rank, as it trains what it has selected; choose "
            "another model, a method that selects by epochs, or selective_backprop with leftover: drop"
        )
    moves_statistics = selection.reuse_graph or selection.mode == "train"
    n_passes = n_ranks if selection.reuse_graph else n_parts
    if moves_statistics and _smallest_part(n, hidden, selection.global_batch, n_passes) < 2:
        n_candidates = selection.global_batch
        if n_passes > n_ranks:
            return (
                f"{n_candidates} candidates in {n_parts} parts (ranks x accumulate) can leave one to a part; "
                "lower training.accumulate, or take fewer ranks"
            )
        return f"{n_candidates} candidates on {n_ranks} ranks can leave one to a rank; take fewer ranks"
    return None


def _build_learner(
    job: Job, training: Training, data: DatasetSplits, method: Method, global_batch: int, world: World
) -> Learner:
    def build() -> Learner:
        learner = Learner(
            training,
            job.model,
            world,
            data.n_classes,
            data.shape,
            job.seed,
            method.forward_columns,
            data.target_shape,
        )
        single = _find_single_sample(job, method, len(data.train), global_batch, world.size)
        if single and needs_two_samples(learner.model, data.shape, world.device):
            raise JobError(
                f"model.name is {job.model.name}, whose BatchNorm needs two samples at once, but {single}"
            )
        return learner

    return world.comm.run_or_raise_together(build)
