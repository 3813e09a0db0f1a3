"""What the driver costs beside a bare PyTorch loop, and what KAKURENBO's epoch costs beside its ideal; one
rank.

    python scripts/bench_epoch.py

In both comparisons the network, the digits (not augmented), batch size, optimizer, loss and threads are the
same, and contenders take turns. Counted for the driver: everything that run_epoch does (plan, deal, steps,
per-sample notes, ledger, line of metrics) except its evaluation. Counted for the bare loop: a DataLoader with
shuffle over tensors in memory, forward, backward, step; no evaluation, no per-sample results.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from bench_common import LEAST_TRIALS, header, median, say, spread, verdict
from torch.utils.data import DataLoader, TensorDataset

from kakurenbo_hpc.config.job import Job, read_job
from kakurenbo_hpc.core.batch import Candidates
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.data import DATASETS, open_data
from kakurenbo_hpc.data.dataset import Dataset, ReadRequest
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.ddp import DdpSync
from kakurenbo_hpc.distributed.world import World
from kakurenbo_hpc.engine.epoch import run_epoch
from kakurenbo_hpc.engine.set_up import set_up
from kakurenbo_hpc.rundir.timers import StageTimer
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.selection.global_stats import GlobalStats
from kakurenbo_hpc.selection.method import init_ledger
from kakurenbo_hpc.training.model import build_model
from kakurenbo_hpc.training.optimizer import build_optimizer

JOBS = Path(__file__).resolve().parents[1] / "jobs"
WIDTHS = [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
MARGIN = 1.1  # a width is chosen from a few steps only
SETTLING = 3  # epochs until KAKURENBO hides its whole share of the digits


@dataclass
class Took:
    """Seconds of one epoch of the driver, without evaluation; and by stage."""

    seconds: float
    context: dict[str, float]
    hidden_fraction: float
    steps: int


class Driver:
    """The package's epoch, set up as a run sets it up, on this rank alone."""

    def __init__(self, job: Job, world: World):
        self._context = set_up(job, world, job.selection)
        data = self._context.data
        self._context.learner.join(DdpSync(world), data.shape)
        self._ledger = init_ledger(job.selection, self._context.homes, world.comm, data.fingerprint)
        self._memory = job.selection.init_state()
        self._job, self._epochs = job, 0

    def epoch(self) -> Took:
        clock = StageTimer(self._context.world.device)
        epoch = Epoch(self._epochs, self._job.training.epochs, self._job.seed)
        outcome = run_epoch(epoch, self._ledger, self._memory, self._context, clock)
        self._ledger, self._memory, line = outcome.ledger, outcome.method_state, outcome.metrics
        self._epochs += 1
        seconds = clock.seconds(self._context.learner.parts.take())
        return Took(seconds["total"] - seconds["evaluate"], seconds, line["hidden_fraction"], line["steps"])


class Bare:
    """What one would write in PyTorch."""

    def __init__(self, job: Job, world: World):
        data = open_data(job.data, job.seed, SerialComm())
        inputs, targets = _tensors(data.train)
        self._device = world.device
        self._model = build_model(job.model, data.n_classes, data.shape, job.seed).to(world.device)
        self._optimizer = build_optimizer(job.training, self._model, job.training.peak_lr(world.size))
        batch = job.training.batch(world.size)
        self._shuffled = DataLoader(TensorDataset(inputs, targets), batch, shuffle=True)
        self._in_order = DataLoader(TensorDataset(inputs, targets), batch)
        self.steps = len(self._shuffled)

    def train(self) -> float:
        """Train for one epoch; return its seconds."""
        begun = self._now()
        self._model.train()
        for input, target in self._shuffled:
            input, target = (
                input.to(self._device, non_blocking=True),
                target.to(self._device, non_blocking=True),
            )
            loss = F.cross_entropy(self._model(input), target)
            loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        return self._now() - begun

    @torch.no_grad()
    def forward(self) -> float:
        """Pass all samples forward; return the seconds."""
        begun = self._now()
        self._model.eval()
        for input, target in self._in_order:
            input, target = (
                input.to(self._device, non_blocking=True),
                target.to(self._device, non_blocking=True),
            )
            F.cross_entropy(self._model(input), target, reduction="none")
        return self._now() - begun

    def passes(self, n: int) -> tuple[list[float], list[float]]:
        """Return the seconds of n forward and n backward passes over one batch, in training mode."""
        self._model.train()
        input, target = (part.to(self._device) for part in next(iter(self._in_order)))
        forward, backward = [], []
        for _ in range(n):
            times = [self._now()]
            loss = F.cross_entropy(self._model(input), target)
            times.append(self._now())
            loss.backward()
            times.append(self._now())
            self._optimizer.zero_grad(set_to_none=True)
            forward.append(times[1] - times[0])
            backward.append(times[2] - times[1])
        return forward, backward

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def _tensors(source: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    n = len(source)
    return source.__getitems__(ReadRequest(np.arange(n), np.zeros(n, np.int32), epoch=0, augment=False))


def job_of(name: str, width: int, epochs: int, *more: str) -> Job:
    """Return one of the repository's jobs on the digits, with a network of this width, not augmented, at a
    constant rate.
    """
    changes = [f"training.epochs={epochs}", f"model.options={{width: {width}}}", "data.augmentation=[]"]
    changes += ["training.schedule=constant", "record.ledger=false", *more]
    return read_job(JOBS / f"{name}.yaml", changes, DATASETS, METHODS)


def width_for(step_s: float, world: World) -> int:
    """Return the first of WIDTHS whose training step takes this long here."""
    for width in WIDTHS:
        bare = Bare(job_of("digits_everything", width, 2), world)
        bare.passes(3)
        forward, backward = bare.passes(7)
        if (
            min(forward) + min(backward) >= MARGIN * step_s
        ):  # the shortest: what others do here meanwhile only makes it longer
            return width
    return WIDTHS[-1]


def bench_overhead(width: int, trials: int, world: World) -> tuple[list[float], list[Took]]:
    """Return the bare loop's seconds per epoch and the driver's, with the baseline method, taken in turn."""
    job = job_of("digits_everything", width, trials + 2)
    bare, driver = Bare(job, world), Driver(job, world)
    bare.train(), driver.epoch()
    pairs = [(bare.train(), driver.epoch()) for _ in range(trials)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def bench_ideal(width: int, trials: int, world: World) -> tuple[list[float], list[float], list[Took]]:
    """Return seconds of a bare epoch of training, of a bare forward pass over all, and of KAKURENBO's epoch,
    in turn.
    """
    job = job_of("digits_kakurenbo", width, SETTLING + trials + 2, "selection.reduce_fraction=false")
    bare, driver = Bare(job, world), Driver(job, world)
    bare.train(), bare.forward()
    for _ in range(SETTLING):
        driver.epoch()
    micro_batches = [(bare.train(), bare.forward(), driver.epoch()) for _ in range(trials)]
    return tuple(list(column) for column in zip(*micro_batches, strict=True))


def bench_choosing(n: int, times: int) -> list[float]:
    """Return the seconds of Selective-Backprop's choice from a batch of n candidates, by the last 1024
    losses.
    """
    method, everyone = METHODS["selective_backprop"](method="selective_backprop"), GlobalStats(SerialComm())
    losses = np.random.default_rng(0).exponential(size=(times + 50, n)).astype(np.float32)
    memory, seconds = method.init_state(), []
    for i, loss in enumerate(losses):
        candidates = Candidates(np.arange(n) + i * n, np.zeros(n, np.int32), loss, {})
        begun = time.perf_counter()
        _, memory = method.select(Epoch(1, 2, 0), candidates, memory, everyone)
        seconds.append(time.perf_counter() - begun)
    return seconds[50:]  # the history is full by then


def report(given: argparse.Namespace, world: World) -> str:
    widths = given.widths or [width_for(step_s, world) for step_s in (0.020, 0.050)]
    say(f"driver and bare loop, width {widths[0]} ...")
    bare, driver = bench_overhead(widths[0], given.trials, world)
    overhead = [b.seconds / a for a, b in zip(bare, driver, strict=True)]
    say(f"KAKURENBO and its ideal, width {widths[1]} ...")
    train, forward, hiding = bench_ideal(widths[1], given.trials, world)
    ideal = [
        (1 - k.hidden_fraction) * t + k.hidden_fraction * f
        for t, f, k in zip(train, forward, hiding, strict=True)
    ]
    above = [k.seconds / i for i, k in zip(ideal, hiding, strict=True)]
    say("forward and backward ...")
    steps = [driver[0].steps, Bare(job_of("digits_everything", widths[1], 2), world).steps]
    step_ms = [1e3 * median(bare) / steps[0], 1e3 * median(train) / steps[1]]
    passes = []
    for width in widths:
        network = Bare(job_of("digits_everything", width, 2), world)
        network.passes(3)
        passes.append([1e3 * median(part) for part in network.passes(given.trials)])

    choosing_ms = 1e3 * median(
        bench_choosing(job_of("digits_everything", widths[1], 2).training.batch(1), 500)
    )
    share = median(k.hidden_fraction for k in hiding)
    lines = [
        f"result:    the driver's epoch / a bare PyTorch loop's: {spread(overhead)}, steps of "
        f"{step_ms[0]:.1f} ms",
        f"           KAKURENBO's epoch / its ideal, (1 - F*) T_train + F* T_forward: {spread(above)}, "
        f"steps of {step_ms[1]:.1f} ms, F* {share:.3f}",
        "           backward / forward: "
        f"{', '.join(f'{b / f:.2f} (width {w})' for w, (f, b) in zip(widths, passes, strict=True))}",
        f"           Selective-Backprop's choice / a training step: {choosing_ms / step_ms[1]:.4f}, "
        f"{choosing_ms:.3f} ms of {step_ms[1]:.1f} ms",
        header(
            ("numpy", "torch", "timm"),
            f"median [quartiles] of the ratios in {given.trials} turns, contenders in turn, after one to "
            "warm up",
        ),
        "network:   small_cnn on scikit-learn's digits, batches of "
        f"{job_of('digits_everything', widths[0], 2).training.batch(1)}, "
        f"{torch.get_num_threads()} threads, {world.device.type}, no augmentation, no evaluation on either "
        "side",
        "",
        f"driver against bare loop, method everything, width {widths[0]}, {steps[0]} steps an epoch",
        f"  seconds per epoch: driver {median(d.seconds for d in driver):.4f} ({_stages(driver)}), bare "
        f"loop {median(bare):.4f}",
        f"KAKURENBO against its ideal, width {widths[1]}",
        f"  seconds per epoch: KAKURENBO {median(k.seconds for k in hiding):.4f} ({_stages(hiding)}), "
        f"ideal {median(ideal):.4f}, "
        f"T_train {median(train):.4f}, T_forward {median(forward):.4f}",
        "forward and backward of one batch, training mode",
        *(
            f"  width {w}: forward {f:.2f} ms, backward {b:.2f} ms"
            for w, (f, b) in zip(widths, passes, strict=True)
        ),
        "",
        verdict(
            median(overhead) <= 1.05,
            f"at most 5 % above the bare loop, on steps of 20 ms and more: {median(overhead) - 1:+.1%}",
        ),
        verdict(
            median(above) <= 1.10,
            f"at most 10 % above the ideal, on steps of 50 ms and more: {median(above) - 1:+.1%}",
        ),
        verdict(
            choosing_ms <= 0.03 * step_ms[1],
            f"choosing under 3 % of a step of 50 ms and more: {choosing_ms / step_ms[1]:.2%}",
        ),
    ]
    for wanted, found in zip((20, 50), step_ms, strict=True):
        if found < wanted:
            lines.append(f"steps took {found:.1f} ms, but {wanted} were wanted: choose larger --widths")
    return "\n".join(lines)


def _stages(took: Sequence[Took]) -> str:
    """Say where the driver's time went; the rest is the line of metrics."""
    medians = {name: median(t.context[name] for t in took) for name in ("plan", "train", "refresh")}
    rest = median(t.seconds - sum(t.context[name] for name in medians) for t in took)
    return ", ".join(f"{name} {seconds:.4f}" for name, seconds in (medians | {"rest": rest}).items())


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trials", type=int, default=LEAST_TRIALS + 2, help="turns of each comparison (default: %(default)s)"
    )
    numbers = lambda text: [int(word) for word in text.split(",")]  # noqa: E731
    parser.add_argument(
        "--widths",
        type=numbers,
        help="of the two networks (default: the first whose steps take 20 and 50 ms)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        help="of torch (default: all cores, as in a run; fewer where others compute too)",
    )
    given = parser.parse_args(words)
    world = World.detect(SerialComm())
    if given.threads:
        torch.set_num_threads(given.threads)
    print(report(given, world))


if __name__ == "__main__":
    main(sys.argv[1:])
