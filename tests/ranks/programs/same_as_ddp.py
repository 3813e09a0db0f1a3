"""Trains jobs with DDP and with Horovod, on the same ranks one after the other, and compares what comes out.

Arguments: a folder for the run directories; names of cases.
"""

import json
import sys
import traceback
from pathlib import Path

import torch

from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.distributed.world import open_comm
from kakurenbo_hpc.engine.run import run
from kakurenbo_hpc.selection import METHODS

# method, training, world, and how far apart weights may end; in half precision, gradients differ in the
# fourth digit.
CASES = {
    "accumulated": ("kakurenbo, confidence: 0.3", ["accumulate=2", "nesterov=true"], [], 1e-5),
    "weighted": ("infobatch", ["optimizer=adamw", "lr=0.001"], [], 1e-5),
    "graphs kept": (
        "selective_backprop, reuse_forward: true, selection_batch: 120",
        ["accumulate=2"],
        [],
        1e-5,
    ),
    "norms of gradients": ("everything", ["optimizer=lars", "lr=1.0"], [], 1e-5),
    "scaled loss": ("everything", ["precision=fp16", "epochs=1", "warmup_epochs=0"], [], 1e-5),
    "predivided": ("everything", [], ["gradient_predivide_factor=2.0"], 1e-5),
    "compressed": ("everything", [], ["compression=fp16"], 0.05),
}
folder, cases, comm = Path(sys.argv[1]), sys.argv[2:], open_comm()


def ran(case, gradients):
    method, training, world, _ = CASES[case]
    sets = [
        "training.epochs=2",
        "training.global_batch=120",
        "model.options={width: 4, norm: batch}",
        f"selection={{method: {method}}}",
    ]
    sets += [f"training.{option}" for option in training] + [f"world.gradients={gradients}"]
    sets += [f"world.{option}" for option in world] if gradients == "horovod" else []
    directory = folder / f"{case} {gradients}".replace(" ", "_")
    assert run(read_job(find_job("digits_everything"), sets, DATASETS, METHODS), directory, comm) == 0
    return directory


def outcome(directory):
    lines = [json.loads(text) for text in (directory / "metrics.jsonl").read_text().splitlines()]
    [newest] = sorted((directory / "checkpoints").glob("epoch_*"))[-1:]
    model = torch.load(newest / "learner.pt", weights_only=True)["model"]
    return lines, torch.cat([value.flatten().double() for value in model.values()])


def compare(case):
    directories = [ran(case, gradients) for gradients in ("ddp", "horovod")]
    if comm.rank:
        return  # rank 0 writes, and reads
    (lines, weights), (lines_too, weights_too) = map(outcome, directories)
    apart = float((weights - weights_too).norm() / weights.norm())
    assert apart < CASES[case][-1], f"{case}: {apart:.1e} apart"
    if case == "compressed":
        assert apart > 0, "nothing was compressed"
    else:
        for name in ("n_hidden", "n_backward", "order_hash", "steps"):
            assert [line[name] for line in lines] == [line[name] for line in lines_too], (case, name)
    print(f"{case}: the same, {apart:.1e} apart", flush=True)


try:
    for case in cases:
        compare(case)
    comm.close()
except BaseException:
    traceback.print_exc()
    comm.abort(1)
