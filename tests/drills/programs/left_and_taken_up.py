"""Leaves runs of methods between two steps, anywhere, takes them up again, and compares them with runs that
went through.

Places are drawn in each stage of an epoch, and among the steps that are done while a checkpoint is being
written.
Arguments: a folder for the run directories; how many places a stage; a comma-separated list of variants, all
if not given; then ``section.key=value`` for every job.
"""

import json
import sys
import time
import traceback
from itertools import product
from pathlib import Path

import torch

from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.core.rng import key, one
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.distributed.preemption import Preemption
from kakurenbo_hpc.distributed.world import open_comm
from kakurenbo_hpc.engine.run import run
from kakurenbo_hpc.rundir.checkpoint import async_writer as saving
from kakurenbo_hpc.rundir.timers import StageTimer
from kakurenbo_hpc.selection import METHODS

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
folder, n_places = Path(sys.argv[1]), int(sys.argv[2])
wanted = sys.argv[3].split(",") if len(sys.argv) > 3 else list(VARIANTS)
more = sys.argv[4:]
comm = open_comm()
asked = {"stages": [], "at": -1}  # of each call so far, the stage; the call that is answered with yes
now = {"stage": "", "writing": False}


def should_stop(self):
    """Stand for an answer that all ranks agree on, at one call of many."""
    asked["stages"].append("checkpoint" if now["writing"] else now["stage"])
    if len(asked["stages"]) - 1 == asked["at"]:
        self.why = "the drill"
    return bool(self.why)


def timed(self, stage, context=StageTimer.__call__):
    now["stage"] = stage
    return context(self, stage)


def slowly(folder, rank, part, on_progress, write=saving.write_shards):
    """Write one rank's part of a checkpoint, while steps pass by where any follow; on some ranks more of
    them.
    """
    now["writing"], begun = True, len(asked["stages"])
    while folder.name in (".epoch_0000.part", ".epoch_0001.part") and len(asked["stages"]) < begun + 2 + rank:
        if 0 <= asked["at"] < len(asked["stages"]):  # all ranks leave
            break
        time.sleep(0.001)
    now["writing"] = False
    return write(folder, rank, part, on_progress)


Preemption.should_stop = should_stop
Preemption.should_stop_now = should_stop
saving.write_shards = slowly
StageTimer.__call__ = timed


def job(variant):
    sets = ["training.epochs=3", "training.global_batch=120", f"selection={{method: {variant.split()[0]}}}"]
    sets += ["model.options={width: 4, norm: batch}", "record.checkpoint_every=1", *more]
    return read_job(
        find_job("digits_everything"),
        sets + [f"selection.{option}" for option in VARIANTS[variant].split()],
        DATASETS,
        METHODS,
    )


def ran(variant, directory, at, resume=False):
    asked.update(stages=[], at=at)
    return run(job(variant), directory, comm, resume)


def outcome(directory):
    lines = [json.loads(text) for text in (directory / "metrics.jsonl").read_text().splitlines()]
    learner = torch.load(directory / "checkpoints" / "epoch_0002" / "learner.pt", weights_only=True)
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines], learner["model"]


def drill(variant):
    whole = folder / variant.replace(" ", "_")
    assert ran(variant, whole, at=-1) == 0
    context = comm.broadcast(asked["stages"])[:-1]  # who is asked after the last epoch is done
    for stage, place in product(sorted(set(context)), range(n_places)):
        calls = [call for call, of in enumerate(context) if of == stage]
        at = calls[one(key(place, f"{variant} {stage}")) % len(calls)]
        directory = folder / f"{variant.replace(' ', '_')}_{stage}_{place}"
        left = ran(variant, directory, at)
        assert left == 75, (variant, at, left)
        if stage == "evaluate":  # where it is left again before anything has come further
            assert ran(variant, directory, at=0, resume=True) == 75
        assert ran(variant, directory, at=-1, resume=True) == 0
        if comm.rank == 0:
            (lines, model), (lines_again, model_again) = outcome(whole), outcome(directory)
            assert [line["epoch"] for line in lines_again] == [0, 1, 2]
            assert lines_again == lines, (
                variant,
                at,
                [(k, a[k], b[k]) for a, b in zip(lines, lines_again) for k in a if a[k] != b[k]],
            )
            assert all(torch.equal(model[name], model_again[name]) for name in model), (variant, at)
            print(variant, "left in", stage, "at call", at, "of", len(context), flush=True)


try:
    for variant in wanted:
        drill(variant)
    comm.close()
except BaseException:
    traceback.print_exc()
    comm.abort(1)
