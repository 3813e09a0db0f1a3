"""Context of a run: what all stages of an epoch share on one rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.ledger import Homes
from ..data.dataset import DatasetSplits
from ..data.loader import Loader
from ..distributed.world import World
from ..local_data.shards import ShardLoader, Shards
from ..rundir.console import Console
from ..rundir.watchdog.heartbeat import Heartbeat
from ..selection.global_stats import GlobalStats
from ..selection.method import Method
from ..training.learner import Learner
from .pass_progress import PassProgress

if TYPE_CHECKING:
    from .vector_pass import VectorPass


@dataclass(frozen=True)
class Context:
    """What all stages of an epoch share.

    Attributes:
        world: the ranks and this rank's device.
        everyone: questions to the rows of all ranks.
        homes: the home rank of every sample.
        method: the selection method.
        data: the data set.
        shards: this rank's node-local samples; None where all ranks read all samples.
        train: reads training batches.
        validation: reads validation batches.
        epochs: of the run.
        global_batch: samples of one optimizer step over all ranks.
        accumulate: micro-batches per optimizer step.
        learner: model and optimizer.
        console: prints on rank 0.
        pass_progress: position in the epoch's passes.
        heartbeat: reports this rank's position to the watchdog.
        vector_pass: chooses online subsets; None for other methods.
    """

    world: World
    everyone: GlobalStats
    homes: Homes
    method: Method
    data: DatasetSplits
    shards: Shards | None
    train: Loader | ShardLoader
    validation: Loader
    epochs: int
    global_batch: int
    accumulate: int
    learner: Learner
    console: Console
    pass_progress: PassProgress
    heartbeat: Heartbeat
    vector_pass: VectorPass | None = None
