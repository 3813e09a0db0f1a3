"""What the stages of an epoch share: the ranks, the method, data and network of one run."""

from __future__ import annotations

from dataclasses import dataclass, field

from .data.loader import Loader
from .ledger import Homes
from .record.heartbeat import Heartbeat
from .record.progress import Progress
from .selection.everyone import Everyone
from .selection.method import OBSERVED, Method
from .shards import Shards
from .trail import Trail
from .training.learner import Learner
from .world.world import World


@dataclass(frozen=True)
class Stages:
    """Everything an epoch passes through. shards: None where all ranks read all samples."""

    world: World
    everyone: Everyone
    method: Method
    homes: Homes
    train: Loader
    validation: Loader
    learner: Learner
    progress: Progress
    global_batch: int
    accumulate: int
    shards: Shards | None = None
    trail: Trail = field(default_factory=Trail)
    heartbeat: Heartbeat = field(default_factory=Heartbeat)

    @property
    def observed(self) -> list[str]:
        """The columns that a forward pass fills for the method."""
        return [name for name in self.method.columns if name in OBSERVED]
