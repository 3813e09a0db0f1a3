"""A clock that jumps: no run ends by it, none waits for it, and no seconds are wrong."""

import random
import time

import pytest
from support.runs import lines, train_here

from kakurenbo_hpc.distributed.preemption import DEADLINE
from kakurenbo_hpc.errors import DONE
from kakurenbo_hpc.rundir.watchdog.heartbeat import Heartbeat


@pytest.mark.ranks(2)
def test_a_clock_that_jumps_by_days_neither_ends_a_run_nor_lengthens_its_seconds(comm, tmp_path, monkeypatch):
    """With an hour left, the clock jumps as soon as the first epoch has begun."""
    enter, right = Heartbeat.enter, time.time

    def entered(heartbeat, epoch, stage):
        enter(heartbeat, epoch, stage)
        monkeypatch.setattr(
            time, "time", lambda: right() + random.choice([-1, 1]) * random.uniform(1, 5) * 86400
        )

    monkeypatch.setenv(DEADLINE, str(right() + 3600))
    monkeypatch.setattr(Heartbeat, "enter", entered)
    sets = ["training.epochs=6", "training.global_batch=120", "record.hang_timeout=60"]
    assert train_here("digits_everything", sets, tmp_path / "run", comm) == DONE
    told = lines(tmp_path / "run")
    assert len(told) == 6
    assert all(0 <= seconds < 300 for line in told for seconds in line["seconds"].values())
