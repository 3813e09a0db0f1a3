"""Seconds of gradient exchange that the backward pass does not hide, by DDP's options, on ranks of mpirun.

    python scripts/bench_gradients.py [--ranks 2,4] [--width 256]

Each turn of a way has a backward pass with exchange and one without, of the same batch. What the first takes
longer is what is not hidden. Beside them: one allreduce of all gradients, with nothing to hide it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from bench_common import LEAST_TRIALS, header, median, on_ranks, say, spread
from torch import nn

from kakurenbo_hpc.config.job import Model, WorldOptions
from kakurenbo_hpc.distributed.gradient_sync import open_gradient_sync
from kakurenbo_hpc.distributed.launch_env import read_launch_env
from kakurenbo_hpc.distributed.world import World, open_comm
from kakurenbo_hpc.training.model import build_model

WAYS: dict[str, dict[str, object]] = {
    "PyTorch's buckets": {},
    "bucket_mib 1": {"bucket_mib": 1.0},
    "bucket_mib 100": {"bucket_mib": 100.0},
    "static graph": {"static_graph": True},
    "fp16": {"compression": "fp16"},
}
SHAPE, BATCH, CLASSES = (3, 16, 16), 8, 10


def measure(width: int, n_trials: int, answer: str) -> None:
    """Measure all ways on these ranks; rank 0 writes the slowest rank's seconds, by way and part."""
    comm = open_comm()
    world = World.detect(comm)
    found: dict[str, dict[str, list[float]]] = {}
    for name, options in WAYS.items():
        model = build_model(Model(name="small_cnn", options={"width": width}), CLASSES, SHAPE, 0)
        model.to(world.device)
        sync = open_gradient_sync(WorldOptions(**options), 1, world)
        parallel = sync.wrap(model, torch.optim.SGD(model.parameters(), lr=0.0))
        images = torch.randn(BATCH, *SHAPE, device=world.device)
        targets = torch.arange(BATCH, device=world.device) % CLASSES

        def loss(parallel: nn.Module = parallel, pair: tuple = (images, targets)) -> torch.Tensor:
            return F.cross_entropy(parallel(pair[0]), pair[1])

        def took(work: Callable[[], object]) -> float:
            comm.barrier()
            begun = _now(world)
            work()
            return float(comm.max(np.array([_now(world) - begun]))[0])

        parts: dict[str, list[float]] = {"alone": [], "exchanged": [], "allreduce": []}
        for trial in range(n_trials + 2):
            both = loss()
            exchanged = took(both.backward)
            with sync.hold(parallel):
                held = loss()
                alone = took(held.backward)
            whole = took(lambda sync=sync, model=model: sync.average(model))
            if trial >= 2:  # DDP arranges its buckets after the first backward pass
                for part, seconds in (("alone", alone), ("exchanged", exchanged), ("allreduce", whole)):
                    parts[part].append(seconds)
            model.zero_grad(set_to_none=True)
        found[name] = parts
        n_bytes = 4 * sum(p.numel() for p in model.parameters())
        del parallel, loss, both, held
        sync.close()
    if comm.rank == 0:
        Path(answer).write_text(json.dumps({"seconds": found, "bytes": n_bytes}))
    comm.close()


def _now(world: World) -> float:
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    return perf_counter()


def report(found: dict[int, dict], given: argparse.Namespace) -> str:
    rows, best = [], {}
    for n, of_ranks in found.items():
        for name, parts in of_ranks["seconds"].items():
            open_ms = [1e3 * (b - a) for a, b in zip(parts["alone"], parts["exchanged"], strict=True)]
            alone, whole = 1e3 * median(parts["alone"]), 1e3 * median(parts["allreduce"])
            best.setdefault(n, []).append((median(open_ms), name))
            rows.append(f"  {n} ranks, {name:<18} {alone:>9.2f} {spread(open_ms, 2):>24} {whole:>12.2f}")
    results = [
        f"{'result:' if i == 0 else '':<11}{n} ranks: {ways[0][0]:.2f} ms of exchange not hidden with "
        f"{ways[0][1]}, {min(ways)[0]:.2f} with {min(ways)[1]}"
        for i, (n, ways) in enumerate(best.items())
    ]
    n_bytes = next(iter(found.values()))["bytes"]
    return "\n".join(
        [
            *results,
            header(
                ("torch", "mpi4py"), f"{given.trials} of each way; median [quartiles], the slowest rank's"
            ),
            f"data:      small_cnn of width {given.width}, {n_bytes / 2**20:.1f} MiB of gradients",
            "",
            "milliseconds                  backward alone     exchange not hidden   one allreduce",
            *rows,
        ]
    )


def main(words: Sequence[str]) -> None:
    numbers = lambda text: [int(word) for word in text.split(",")]  # noqa: E731
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=numbers, default=[2, 4], help="default: 2,4")
    parser.add_argument("--width", type=int, default=256, help="of the network (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=LEAST_TRIALS, help="default: %(default)s")
    given = parser.parse_args(words)
    found = {}
    for n in given.ranks:
        say(f"{n} ranks ...")
        found[n] = on_ranks(n, __file__, [given.width, given.trials])
    print(report(found, given))


if __name__ == "__main__":
    if read_launch_env(os.environ):
        measure(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    else:
        main(sys.argv[1:])
