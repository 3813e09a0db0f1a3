"""What the stages of an epoch share: the ranks, the method, data and network of one run."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..core.ledger import Homes
from ..data.loader import Loader
from ..distributed.world import World
from ..local_data.shards import Shards
from ..rundir.console import Console
from ..rundir.watchdog.heartbeat import Heartbeat
from ..selection.global_stats import GlobalStats
from ..selection.method import FORWARD_COLUMNS, Method
from ..training.learner import Learner
from .pass_progress import PassProgress


@dataclass(frozen=True)
class Context:
    """Everything an epoch passes through. shards: None where all ranks read all samples."""

    world: World
    everyone: GlobalStats
    method: Method
    homes: Homes
    train: Loader
    validation: Loader
    learner: Learner
    progress: Console
    global_batch: int
    accumulate: int
    shards: Shards | None = None
    pass_progress: PassProgress = field(default_factory=PassProgress)
    heartbeat: Heartbeat = field(default_factory=Heartbeat)

    @property
    def observed(self) -> list[str]:
        """The columns that a forward pass fills for the method."""
        return [name for name in self.method.columns if name in FORWARD_COLUMNS]
