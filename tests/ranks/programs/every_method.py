"""Runs every method of the table from a job, in variants, on these ranks; then resumes each from its last
checkpoint but one, leaves it between two steps of the last epoch, at a place that is drawn, and resumes it
there.

Argument: a folder for the run directories.
"""

import json
import shutil
import sys
from pathlib import Path

import torch

from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.core.rng import key, one
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.distributed.preemption import Preemption
from kakurenbo_hpc.distributed.world import open_comm
from kakurenbo_hpc.engine.run import run
from kakurenbo_hpc.engine.score import score
from kakurenbo_hpc.selection import METHODS

VARIANTS = {
    "kakurenbo": ["", "refresh_mode=train drop_top=0.02 lr_fraction=ceiling"],
    "infobatch": ["", "exact_share=true prune=above"],
    "iswr": ["", "scores=lagging reweight=true"],
    "sample_importance": [
        "",
        "online=step",
        "level=class unbiased=true",
        "metric=grad_norm online=epoch weights_pass=fresh pretrain_epochs=0",
    ],
    "static": ["", "keep=lowest class_balance=true"],
    "ucb": ["every=1"],
    "epsilon_greedy": ["every=1"],
    "selective_backprop": [
        "",
        "stale=2 prime_epochs=1 lr_clock=backward",
        "reuse_forward=true selection_batch=120 history_scope=global",
        "calculator=random selection_precision=bf16",
    ],
    "kath18": ["", "score=loss reweight=false presample=2"],
}
EPOCHS = 4
folder = Path(sys.argv[1])
comm = open_comm()
asked = {
    "steps": 0,
    "of_last": 0,
    "at": 0,
}  # of this epoch and the one before, so far; the step of an epoch after which to leave


def should_stop(self):
    asked["steps"] += 1
    self.why = "the drill" if asked["steps"] == asked["at"] else ""
    return bool(self.why)


def should_stop_now(self):
    asked.update(steps=0, of_last=asked["steps"])
    return False


Preemption.should_stop, Preemption.should_stop_now = should_stop, should_stop_now


def job(method: str, options: str):
    sets = [
        f"training.epochs={EPOCHS}",
        "record.checkpoint_every=1",
        f"selection={{method: {method}}}",
        "record.ledger=true",
    ]
    sets += [f"selection.{option}" for option in options.split()]
    if method == "static":
        sets.append(f"selection.scores={folder / 'el2n.h5'}")
    return read_job(find_job("digits_everything"), sets, DATASETS, METHODS)


def lines(directory: Path) -> list[dict]:
    told = [json.loads(text) for text in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in told]


for name, epochs, last_layer in [
    ("el2n", 1, False),
    ("grand", 0, False),
    ("grand", 0, True),
    ("forgetting", 3, False),
    ("random", 0, False),
]:
    path = folder / f"{name}{'_last_layer' * last_layer}.h5"
    score(name, job("everything", ""), path, comm, epochs=epochs, repeats=1, last_layer=last_layer)
left = set()
for method in METHODS:
    for number, options in enumerate(VARIANTS.get(method, [""])):
        directory, again = folder / f"{method}_{number}", folder / f"{method}_{number}_resumed"
        assert run(job(method, options), directory, comm) == 0
        if comm.rank == 0:
            shutil.copytree(directory, again)
            shutil.rmtree(again / "checkpoints" / f"epoch_{EPOCHS - 1:04d}")
        comm.barrier()
        if asked["of_last"]:  # a graph cannot be put down
            asked.update(steps=0, at=1 + one(key(number, method)) % asked["of_last"])
            assert run(job(method, options), again, comm, resume=True) == 75, (method, options)
            left.add(method)
        asked.update(steps=0, at=0)
        assert run(job(method, options), again, comm, resume=True) == 0
        if comm.rank == 0:
            before, after = (
                torch.load(d / "checkpoints" / f"epoch_{EPOCHS - 1:04d}" / "learner.pt", weights_only=True)
                for d in (directory, again)
            )
            assert all(
                torch.equal(before["model"][name], after["model"][name]) for name in before["model"]
            ), (method, options)
            assert lines(directory) == lines(again), (method, options)
            print("ran", method, options, lines(directory)[-1]["val_accuracy"], flush=True)
assert left == METHODS.keys()
comm.close()
