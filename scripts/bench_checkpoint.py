"""What a checkpoint costs the training that goes on meanwhile, beside one that all wait for.

    python scripts/bench_checkpoint.py [--parameters 100000000] [--folder DIR]

One rank, a model of so many parameters with SGD's momentum. Each trial, in turn: a blocking save, from the
call until the checkpoint has its name; a save in the background, and steps until it has its name as well; and
as many steps with nothing to save. The call's stall is what ``save`` keeps the training waiting; the whole
one is what steps beside the writing thread take longer, too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import torch
from bench_common import LEAST_TRIALS, header, median, say, spread, verdict
from torch import nn

from kakurenbo_hpc.core.ledger import Ledger
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.rundir.checkpoint.async_writer import CheckpointWriter
from kakurenbo_hpc.rundir.checkpoint.shards import RankState
from kakurenbo_hpc.rundir.checkpoint.snapshot import Snapshot

WIDTH = 2048  # of a layer, a square of parameters
WANTED = 0.1


class Training:
    """A model that learns nothing of use, step by step, and what saves it."""

    def __init__(self, n_parameters: int, folder: Path):
        self.model = nn.Sequential(
            *(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(-(-n_parameters // WIDTH**2)))
        )
        self.n_parameters = sum(p.numel() for p in self.model.parameters())
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-6, momentum=0.9)
        self.input = torch.randn(64, WIDTH)
        self.folder, self.n_saved = folder, 0
        snapshot = Snapshot()
        self.saver = CheckpointWriter(folder, 1, SerialComm(), snapshot, say, lambda: None)
        self.step()
        snapshot.of(self.state())

    def state(self) -> dict:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def step(self) -> None:
        self.model(self.input).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def save(self) -> None:
        self.n_saved += 1
        self.saver.save(
            f"epoch_{self.n_saved:04d}",
            RankState(self.state(), Ledger.unseen(1000, 0, 1000), {}),
            {"line": {}},
        )

    def blocking(self) -> float:
        """Return the seconds of a save that is waited for."""
        begun = perf_counter()
        self.save()
        self.saver.finish()
        return perf_counter() - begun

    def background(self) -> tuple[float, float, int]:
        """Return the seconds of the call, those of call and steps until the checkpoint has its name, and the
        steps.
        """
        begun, n_steps, here = perf_counter(), 0, self.folder / f"epoch_{self.n_saved + 1:04d}"
        self.save()
        called = perf_counter() - begun
        while not here.exists():
            self.step()
            self.saver.poll()
            n_steps += 1
        taken = perf_counter() - begun
        self.saver.finish()
        return called, taken, n_steps

    def plain(self, n_steps: int) -> float:
        begun = perf_counter()
        for _ in range(n_steps):
            self.step()
        return perf_counter() - begun


def measure(training: Training, n_trials: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"blocking": [], "call": [], "whole": [], "step": [], "steps": []}
    for trial in range(n_trials + 1):
        blocking = training.blocking()
        called, taken, n_steps = training.background()
        alone = training.plain(n_steps)
        if trial:
            for name, value in zip(
                found, (blocking, called, taken - alone, alone / n_steps, n_steps), strict=True
            ):
                found[name].append(value)
        say(f"trial {trial} of {n_trials}: blocking {blocking:.2f} s, in the background {called:.3f} s")
    return found


def report(found: dict[str, list[float]], n_parameters: int, n_trials: int) -> str:
    calls, wholes = (
        [s / b for s, b in zip(found[name], found["blocking"], strict=True)] for name in ("call", "whole")
    )
    call, whole = median(calls), median(wholes)
    lines = [
        f"result:    a save in the background costs training {whole:.1%} of the time that a blocking one "
        f"takes: {call:.1%} in the call, "
        "the rest in slower steps",
        header(
            ("torch",),
            f"{n_trials} of each way, in turn, after one to warm up; {torch.get_num_threads()} thread of "
            "training",
        ),
        f"data:      {n_parameters:,} parameters and their momentum, float32, "
        f"{8 * n_parameters / 1e6:,.0f} MB, on one rank",
        "",
        "seconds, median [quartiles]",
        f"  a blocking save                     {spread(found['blocking'])}",
        f"  the call of one in the background   {spread(found['call'])}",
        f"  that, and what steps take longer    {spread(found['whole'])}   "
        f"in {median(found['steps']):.0f} steps of {median(found['step']):.3f}",
        "of the blocking save",
        f"  the call                            {spread(calls)}",
        f"  that, and what steps take longer    {spread(wholes)}   (where training leaves a core to the "
        "thread that writes)",
        "",
        verdict(call < WANTED, f"the call takes less than {WANTED:.0%} of a blocking save: {call:.1%}"),
        verdict(whole < WANTED, f"that, and what steps take longer, less than {WANTED:.0%}: {whole:.1%}"),
    ]
    return "\n".join(lines)


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parameters", type=int, default=100_000_000, help="default: %(default)s")
    parser.add_argument("--folder", help="where checkpoints are written (default: one that the system gives)")
    parser.add_argument("--trials", type=int, default=LEAST_TRIALS, help="default: %(default)s")
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        training = Training(given.parameters, Path(folder))
        print(report(measure(training, given.trials), training.n_parameters, given.trials))


if __name__ == "__main__":
    main(sys.argv[1:])
