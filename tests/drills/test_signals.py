"""Signals in every stage, twice in a row: ranks leave together, and the run goes on bit for bit."""

import os

import pytest
from support.kills import left
from support.runs import train_here

from kakurenbo_hpc.core.signals import SIGNALS
from kakurenbo_hpc.errors import DONE, REQUEUE
from kakurenbo_hpc.rundir.timers import STAGES
from kakurenbo_hpc.rundir.watchdog.heartbeat import Heartbeat

pytestmark = pytest.mark.ranks(2)
JOB = (
    "digits_kakurenbo",
    [
        "training.epochs=6",
        "training.global_batch=120",
        "selection.fraction_epochs=[0]",
        "selection.confidence=0.3",
        "model.options={width: 4, norm: batch}",
        "record.ledger=false",
        "record.keep=6",
    ],
)


@pytest.fixture(scope="module")
def whole(module_comm, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    assert train_here(*JOB, run, module_comm) == DONE
    module_comm.barrier()
    return left(run)


# Each signal and each stage once; all four together, every signal in every stage.
@pytest.mark.parametrize("first", [0, *(pytest.param(n, marks=pytest.mark.nightly) for n in (1, 2, 3))])
def test_a_signal_in_any_stage_only_interrupts_a_run(first, whole, comm, tmp_path, monkeypatch):
    now, enter = {}, Heartbeat.enter

    def entered(heartbeat, epoch, stage):
        enter(heartbeat, epoch, stage)
        if (epoch, stage) == (now.get("epoch"), now["stage"]) and comm.rank == epoch % comm.size:
            for _ in range(2):
                os.kill(os.getpid(), now["signal"])

    monkeypatch.setattr(Heartbeat, "enter", entered)
    for epoch, stage in enumerate(STAGES):
        now.update(epoch=epoch, stage=stage, signal=SIGNALS[(first + epoch) % len(SIGNALS)])
        assert train_here(*JOB, tmp_path / "run", comm, resume=epoch > 0) == REQUEUE, now
    now["epoch"] = None
    assert train_here(*JOB, tmp_path / "run", comm, resume=True) == DONE
    comm.barrier()
    again = left(tmp_path / "run")
    assert again["lines"] == whole["lines"]
    assert of_last_epoch(again) == of_last_epoch(whole)


def of_last_epoch(run):
    return {path: held for path, held in run["files"].items() if path.startswith("checkpoints/epoch_0005/")}
