"""How fast samples come: one process, one thread, as a rank without loader processes reads them.

    python scripts/bench_data.py visual_atoms

visual_atoms: images drawn from their formula, in random order, a batch at a time, beside the same images read from memory;
and what each training augmentation adds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import get_args

import numpy as np
import torch
from bench_common import LEAST_TRIALS, header, median, spread, verdict

from kakurenbo_hpc.data import DATA, open_data
from kakurenbo_hpc.data.digits import Images
from kakurenbo_hpc.data.source import Request, Source
from kakurenbo_hpc.job import Augmentation
from kakurenbo_hpc.world.comm import Serial

BATCH = 256
SIZES = (16, 32, 64)
WANTED = 5000  # images of 32 x 32 per second


def visual_atoms(n_trials: int) -> str:
    names = get_args(Augmentation)
    plain = {f"{size} px": _train(pixels=size) for size in SIZES}
    drawn, kept = plain["32 px"], _in_memory(plain["32 px"])
    seconds = measure({**plain, "in memory": kept}, n_trials)
    augmented = measure({"none": kept} | {name: _train(augmentation=[name], pixels=32) for name in names}, n_trials)
    per_second = {name: [BATCH / s for s in seconds[name]] for name in plain}
    beside = [a / b for a, b in zip(seconds["32 px"], seconds["in memory"], strict=True)]
    reached = median(per_second["32 px"])
    lines = [
        f"result:    {reached:,.0f} images of 32 x 32 drawn per second by one thread",
        f"           drawn / read from memory: {spread(beside, 1)}",
        header(("numpy", "torch", "torchvision"), f"median [quartiles] of {n_trials} batches, contenders in turn, after one to warm up"),
        f"data:      visual_atoms, {len(drawn):,} samples, batches of {BATCH} in random order",
        "",
        "images per second",
        *(f"  {name:<8} {spread(rate, 0)}" for name, rate in per_second.items()),
        "augmentation, microseconds for each image of 32 x 32, drawing it included",
        *(f"  {name:<21} {spread([1e6 * s / BATCH for s in augmented[name]], 1)}" for name in names),
        "",
        verdict(reached >= WANTED, f"{WANTED:,} images of 32 x 32 per second and core: {reached:,.0f}"),
    ]
    return "\n".join(lines)


def measure(sources: dict[str, Source], n_trials: int) -> dict[str, list[float]]:
    """Return the seconds that each source takes for a batch, in turn."""
    rng = np.random.default_rng(0)
    seconds = {name: [] for name in sources}
    for number in range(n_trials + 1):
        for name, source in sources.items():
            id = rng.integers(0, len(source), BATCH)
            begun = time.perf_counter()
            source.__getitems__(Request(id, np.zeros(BATCH, np.int32), epoch=number, augment=True))
            seconds[name].append(time.perf_counter() - begun)
    return {name: taken[1:] for name, taken in seconds.items()}


def _train(**options) -> Source:
    return open_data(DATA["visual_atoms"](name="visual_atoms", **options), seed=0, comm=Serial()).train


def _in_memory(source: Source) -> Source:
    id = np.arange(len(source))
    input, target = source.__getitems__(Request(id, np.zeros(len(id), np.int32), epoch=0, augment=False))
    return Images(input.numpy(), target.numpy())


BENCHES: dict[str, Callable[[int], str]] = {"visual_atoms": visual_atoms}


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=BENCHES)
    parser.add_argument("--trials", type=int, default=10 * LEAST_TRIALS, help="batches of each contender (default: %(default)s)")
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    print(BENCHES[given.data](given.trials))


if __name__ == "__main__":
    main(sys.argv[1:])
