"""Leaves runs of methods between two steps, anywhere, takes them up again, and compares them with runs that
went through.

A place is drawn in each stage of an epoch, and among the steps that are done while a checkpoint is being
written.
Arguments: a folder for the run directories; a variant; then ``section.key=value`` for the job.
"""

import sys
import time
import traceback
from pathlib import Path

import pytest

from kakurenbo_hpc.core.rng import key, one
from kakurenbo_hpc.distributed.comm import Comm
from kakurenbo_hpc.distributed.preemption import Preemption
from kakurenbo_hpc.distributed.world import open_comm
from kakurenbo_hpc.errors import DONE, REQUEUE
from kakurenbo_hpc.rundir.checkpoint import async_writer
from kakurenbo_hpc.rundir.timers import StageTimer

sys.path.insert(0, str(Path(__file__).parents[2]))

from support.batch_runs import metrics
from support.runs import same_parameters, train_here

VARIANTS = {
    "everything": "",
    "kakurenbo": "confidence=0.3",
    "kakurenbo in train mode": "refresh_mode=train confidence=0.3",
    "infobatch": "",
    "iswr": "",
    "sample_importance": "",
    "sample_importance online": "online=step",
    "selective_backprop": "",
    "selective_backprop stale": "stale=2 prime_epochs=1 lr_clock=backward",
    "selective_backprop kept": "reuse_forward=true selection_batch=120 history_scope=global",
    "kath18": "",
    "spv": "burn_in=1",
    "rs2": "",
}


class Request:
    """Stands for a request to stop that all ranks agree on, at one call of many.

    stages: of each call so far, the stage. at: the call that is answered with yes, -1 for none.
    """

    def __init__(self, patch: pytest.MonkeyPatch):
        self.stages: list[str] = []
        self.at = -1
        self._stage, self._writing = "", False

        def should_stop(preemption):
            self.stages.append("checkpoint" if self._writing else self._stage)
            if len(self.stages) - 1 == self.at:
                preemption.why = "the drill"
            return bool(preemption.why)

        def timed(timer, stage, context=StageTimer.__call__):
            self._stage = stage
            return context(timer, stage)

        def slowly(folder, rank, part, on_progress, write=async_writer.write_shards):
            # Steps pass by meanwhile where any follow; on some ranks more of them.
            self._writing, begun = True, len(self.stages)
            followed = folder.name in (".epoch_0000.part", ".epoch_0001.part")
            while followed and len(self.stages) < begun + 2 + rank:
                if 0 <= self.at < len(self.stages):  # all ranks leave
                    break
                time.sleep(0.001)
            self._writing = False
            return write(folder, rank, part, on_progress)

        patch.setattr(Preemption, "should_stop", should_stop)
        patch.setattr(Preemption, "should_stop_now", should_stop)
        patch.setattr(async_writer, "write_shards", slowly)
        patch.setattr(StageTimer, "__call__", timed)


def leave_and_take_up(
    comm: Comm, folder: Path, variant: str, patch: pytest.MonkeyPatch, more: tuple[str, ...] = ()
) -> set[str]:
    """Leave a run in each stage and take it up; return the stages. Collective."""
    request = Request(patch)
    sets = ["training.epochs=3", "training.global_batch=120", f"selection={{method: {variant.split()[0]}}}"]
    sets += ["model.options={width: 4, norm: batch}", "record.checkpoint_every=1", *more]
    sets += [f"selection.{option}" for option in VARIANTS[variant].split()]

    def ran(directory, at, resume=False):
        request.stages, request.at = [], at
        return train_here("digits_everything", sets, directory, comm, resume=resume)

    whole = folder / "whole"
    assert ran(whole, at=-1) == DONE
    stages = comm.broadcast(request.stages)[:-1]  # who is asked after the last epoch is done
    for stage in sorted(set(stages)):
        calls = [call for call, of in enumerate(stages) if of == stage]
        at, directory = calls[one(key(0, f"{variant} {stage}")) % len(calls)], folder / stage
        assert ran(directory, at) == REQUEUE, (variant, at)
        if stage == "evaluate":  # where it is left again before anything has come further
            assert ran(directory, at=0, resume=True) == REQUEUE
        assert ran(directory, at=-1, resume=True) == DONE
        if comm.rank == 0:
            assert [line["epoch"] for line in metrics(directory)] == [0, 1, 2]
            assert metrics(directory) == metrics(whole), (variant, at)
            assert same_parameters(directory, whole, 2), (variant, at)
    return set(stages)


if __name__ == "__main__":
    comm, (folder, variant, *more) = open_comm(), sys.argv[1:]
    try:
        with pytest.MonkeyPatch.context() as patch:
            left = leave_and_take_up(comm, Path(folder), variant, patch, tuple(more))
        if comm.rank == 0:
            print(f"left in {', '.join(sorted(left))}")
        comm.close()
    except BaseException:
        traceback.print_exc()
        comm.abort(1)
