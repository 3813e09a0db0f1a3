"""What a GPU's training costs beside a bare PyTorch loop, and what forward-only passes cost beside training.

    python scripts/bench_gpu.py [--device cpu] [--quick] [--minutes 9] [--out bench_gpu.json]

Networks on noise in memory: ResNet-18 on 32 pixels, ResNet-50 on 176, DeepLab on 768 x 1152 with 16 channels.
For each: the driver's epoch beside a bare loop's over the same batches; KAKURENBO's beside its ideal,
(1 - F*) T_train + F* T_forward; a forward-only pass as a share of training, as it is and in cheaper ways; the
share of the hidden set that a way would change; the time spent waiting for input. Takes turns until its
time is over. On a CPU the same code runs with the device swapped, and what it does not exercise is named. The
checks that belong to it are in tests/gpu/checks.py.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from bench_common import header, median, spread, verdict
from noise import noise_job

from kakurenbo_hpc.config.job import Job
from kakurenbo_hpc.core.batch import Batch
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.data.loader import plain_micro_batches
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.ddp import DdpSync
from kakurenbo_hpc.distributed.world import World
from kakurenbo_hpc.engine.epoch import run_epoch
from kakurenbo_hpc.engine.set_up import set_up
from kakurenbo_hpc.rundir.timers import StageTimer
from kakurenbo_hpc.selection.method import init_ledger

FRACTION, MOST_TURNS, LEAST_TURNS, SETTLING = 0.3, 12, 2, 2


class Case(NamedTuple):
    """A network, its data, and a batch of it."""

    model: dict[str, Any]
    data: dict[str, Any]
    batch: int


CASES = {
    "ResNet-18, 32 px": Case({"name": "cifar_resnet"}, {"n": 8192, "shape": [3, 32, 32], "classes": 10}, 512),
    "ResNet-50, 176 px": Case(
        {"name": "resnet50"}, {"n": 2048, "shape": [3, 176, 176], "classes": 1000}, 128
    ),
    "DeepLab, 768 x 1152 x 16": Case(
        {"name": "deepcam_deeplabv3plus"}, {"n": 32, "shape": [16, 768, 1152], "classes": 3, "masks": True}, 2
    ),
}
QUICK = {
    "ResNet-18, 32 px": Case({"name": "cifar_resnet"}, {"n": 16, "shape": [3, 16, 16], "classes": 10}, 4),
    "ResNet-50, 176 px": Case({"name": "resnet50"}, {"n": 8, "shape": [3, 32, 32], "classes": 10}, 4),
    "DeepLab, 768 x 1152 x 16": Case(
        {"name": "deepcam_deeplabv3plus", "options": {"width": 0.05, "middle": 1}},
        {"n": 4, "shape": [16, 32, 48], "classes": 3, "masks": True},
        2,
    ),
}
CHEAPER: dict[
    str, dict[str, Any]
] = {  # ways to pass forward: precision, factor of the batch, training options
    "as trained": {},
    "batch x 4": {"factor": 4},
    "bf16": {"precision": "bf16"},
    "bf16, batch x 4": {"precision": "bf16", "factor": 4},
    "fp16": {"precision": "fp16"},
    "channels_last": {"training": {"channels_last": True}},
    "channels_last, bf16, batch x 4": {"training": {"channels_last": True}, "precision": "bf16", "factor": 4},
    "compile, bf16": {"training": {"compile": True}, "precision": "bf16"},
    "CUDA graph, bf16": {"precision": "bf16", "graph": True},
}
GPU_ONLY = ("fp16", "compile, bf16", "CUDA graph, bf16")


class Driver:
    """The package's epoch on this device alone."""

    def __init__(self, job: Job, device: torch.device):
        world = World(SerialComm(), "here", 0, 1, device)
        self.context = set_up(job, world, job.selection)
        self.context.learner.join(DdpSync(world), self.context.data.shape, job.training.batch(1))
        self._ledger = init_ledger(
            job.selection, self.context.homes, world.comm, self.context.data.fingerprint
        )
        self._state, self._job, self._number = job.selection.init_state(), job, 0

    def epoch(self) -> dict[str, float]:
        """Run an epoch; return its seconds without evaluation, by part, and its hidden fraction."""
        timer = StageTimer(self.context.world.device)
        epoch = Epoch(self._number, self._job.training.epochs, self._job.seed)
        result = run_epoch(epoch, self._ledger, self._state, self.context, timer)
        self._ledger, self._state, self._number = result.ledger, result.method_state, self._number + 1
        seconds = timer.seconds(self.context.learner.parts.take())
        whole = seconds["total"] - seconds["evaluate"]
        return {**seconds, "epoch": whole, "hidden": result.metrics["hidden_fraction"]}

    def batches(self, factor: int = 1) -> Iterator[Batch]:
        """Yield the samples in order, in batches."""
        n, size = len(self.context.data.train), factor * self._job.training.batch(1)
        return self.context.train(plain_micro_batches(0, n, size), 0, False)


class Bare:
    """What one would write in PyTorch, over batches that are read in the same way."""

    def __init__(self, driver: Driver, precision: str):
        self._driver, learner = driver, driver.context.learner
        self._model, self._optimizer = learner.model, learner.optimizer
        self._device = driver.context.world.device
        self._scaler = learner.scaler
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        self._autocast = lambda: torch.autocast(self._device.type, dtype, dtype is not None)

    def train(self) -> float:
        """Train for an epoch; return its seconds."""
        begun = _now(self._device)
        self._model.train()
        for batch in self._driver.batches():
            with self._autocast():
                logits = _logits(self._model(batch.input))
            self._scaler.scale(F.cross_entropy(logits.float(), batch.target)).backward()
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self._optimizer.zero_grad(set_to_none=True)
        return _now(self._device) - begun

    @torch.no_grad()
    def forward(self) -> float:
        """Pass all samples forward; return the seconds."""
        begun = _now(self._device)
        self._model.eval()
        for batch in self._driver.batches():
            with self._autocast():
                logits = _logits(self._model(batch.input))
            F.cross_entropy(logits.float(), batch.target, reduction="none")
        return _now(self._device) - begun


def bench(case: Case, device: torch.device, precision: str, seconds: float) -> dict[str, Any]:
    """Return the figures of one case, in turns until the seconds are over; in the fewest for 0 seconds."""
    until = time.perf_counter() + seconds if seconds else math.inf
    training = {"epochs": SETTLING + MOST_TURNS + 1, "global_batch": case.batch, "precision": precision}
    everything = Driver(noise_job("everything", case.model, case.data, **training), device)
    hiding = Driver(noise_job("kakurenbo", case.model, case.data, **training), device)
    bare = Bare(Driver(noise_job("everything", case.model, case.data, **training), device), precision)
    hidden = [hiding.epoch() for _ in range(SETTLING)][-1]["hidden"]
    bare.train(), bare.forward(), everything.epoch()
    turns = []
    while len(turns) < LEAST_TURNS or (
        seconds and len(turns) < MOST_TURNS and time.perf_counter() < until - 0.4 * seconds
    ):
        turns.append((bare.train(), bare.forward(), everything.epoch(), hiding.epoch()))
    overhead = [driver["epoch"] / train for train, _, driver, _ in turns]
    ideal = [
        own["epoch"] / ((1 - own["hidden"]) * train + own["hidden"] * forward)
        for train, forward, _, own in turns
    ]
    waiting = [driver["data_wait"] / driver["epoch"] for *_, driver, _ in turns]
    train_s = median(train for train, *_ in turns)
    return {
        "turns": len(turns),
        "driver / bare loop": overhead,
        "epoch / ideal": ideal,
        "hidden fraction": median([own["hidden"] for *_, own in turns] + [hidden]),
        "input waiting / epoch": waiting,
        "step_s": train_s / -(-case.data["n"] // case.batch),
        "refresh / training": refresh_shares(case, device, training, until),
    }


def refresh_shares(
    case: Case, device: torch.device, training: dict[str, Any], until: float
) -> dict[str, Any]:
    """Return each way's share of the seconds of training, and the share of the hidden set that it changes.

    All batches are on the device before.
    """
    driver = Driver(noise_job("everything", case.model, case.data, **training), device)
    losses, _ = _forward_all(driver, {}, device)
    train_s = _train_all(driver, device)
    shares: dict[str, Any] = {}
    for name, way in CHEAPER.items():
        if (name in GPU_ONLY and device.type != "cuda") or (shares and time.perf_counter() > until):
            continue
        options = {**training, **way.get("training", {})}
        try:
            driver = Driver(noise_job("everything", case.model, case.data, **options), device)
            found, took_s = _forward_all(driver, way, device)
        except Exception as problem:  # such as one batch that does not fit; the other ways are to be measured
            shares[name] = {"failed": f"{type(problem).__name__}: {str(problem)[:200]}"}
            continue
        changed = None if way.get("graph") else _changed(found, losses)  # a graph replays one batch
        shares[name] = {"share": took_s / train_s, "changed": changed}
    return shares


def _train_all(driver: Driver, device: torch.device) -> float:
    """Return the seconds of a step on every batch."""
    learner, batches = driver.context.learner, list(driver.batches())
    learner.begin_epoch(0, 1.0)
    return _least_seconds(lambda: [learner.step(batch) for batch in batches], device)


def _forward_all(driver: Driver, way: dict[str, Any], device: torch.device) -> tuple[np.ndarray, float]:
    """Return all losses, and the seconds that they take."""
    learner, precision = driver.context.learner, way.get("precision", "same")
    forward = lambda batch: learner.forward_only(batch, "eval", precision)[0].columns["loss"]  # noqa: E731
    batches = list(driver.batches(way.get("factor", 1)))
    passes: list[Callable[[], torch.Tensor]] = [partial(forward, batch) for batch in batches]
    if way.get("graph"):
        passes = [_graphed(passes[0])] * len(passes)
    seconds = _least_seconds(lambda: [work() for work in passes], device)
    return torch.cat([work() for work in passes]).float().cpu().numpy(), seconds


def _least_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the least of three times, after one to warm up."""
    seconds = []
    for _ in range(4):
        begun = _now(device)
        work()
        seconds.append(_now(device) - begun)
    return min(seconds[1:])


def _graphed(work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = work()

    def replay() -> torch.Tensor:
        graph.replay()
        return made

    return replay


def _changed(losses: np.ndarray, reference: np.ndarray) -> float:
    """Return the share of the smallest losses, which are hidden, that the reference does not hide."""
    n = max(1, int(FRACTION * len(losses)))
    mine, theirs = (set(np.argsort(values, kind="stable")[:n].tolist()) for values in (losses, reference))
    return len(mine - theirs) / n


def _logits(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output.logits


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def report(found: dict[str, dict[str, Any]], device: torch.device, given: argparse.Namespace) -> str:
    good = {name: case for name, case in found.items() if "failed" not in case}
    lines, verdicts = ["| network | figure | value |", "|---|---|---|"], []
    for name, case in found.items():
        if name not in good:
            lines.append(f"| {name} | **failed** | {case['failed']} |")
            continue
        for key in ("driver / bare loop", "epoch / ideal", "input waiting / epoch"):
            lines.append(f"| {name} | {key} | {spread(case[key])} |")
        lines.append(f"| {name} | ms of a bare step | {1e3 * case['step_s']:.2f} |")
        for way, one in case["refresh / training"].items():
            changed = f", {one['changed']:.1%} hidden otherwise" if one.get("changed") is not None else ""
            told = one.get("failed") or f"{one['share']:.3f}{changed}"
            lines.append(f"| {name} | forward only / training, {way} | {told} |")
        shares = [one["share"] for one in case["refresh / training"].values() if "share" in one]
        verdicts += [
            verdict(median(case["epoch / ideal"]) <= 1.03, f"{name}: epoch at most 1.03 times its ideal"),
            verdict(shares[0] <= 0.36, f"{name}: refresh at most .36 of training at the same precision"),
            verdict(min(shares) <= 0.25, f"{name}: at most .25 in the cheapest way"),
        ]
    first = "; ".join(
        f"{name}: driver {median(case['driver / bare loop']):.3f} of a bare loop, epoch "
        f"{median(case['epoch / ideal']):.3f} of its ideal"
        for name, case in good.items()
    )
    return "\n".join(
        [
            f"result:    {first or 'none'}",
            header(("numpy", "torch", "timm"), f"turns until {given.minutes} minutes are over, at least 2"),
            f"data:      noise in memory, {device.type}, precision {given.precision}",
            "",
            *lines,
            "",
            *([] if given.quick else verdicts),
            *(f"not exercised here: {name}" for name in GPU_ONLY if device.type != "cuda"),
        ]
    )


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    has_gpu = torch.cuda.is_available()
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if has_gpu else "cpu")
    parser.add_argument(
        "--precision", choices=["fp32", "bf16", "fp16"], default="fp16" if has_gpu else "fp32"
    )
    parser.add_argument("--quick", action="store_true", help="tiny networks, which show only that it works")
    parser.add_argument("--minutes", type=float, default=8.0, help="of all turns (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("bench_gpu.json"), help="default: %(default)s")
    given = parser.parse_args(words)
    if given.device == "cpu" and not given.quick:
        sys.exit("on a CPU only the small sizes end in time; add --quick")
    device = torch.device(given.device)
    cases = QUICK if given.quick else CASES
    seconds = 0.0 if given.quick else 60 * given.minutes / len(cases)
    found: dict[str, dict[str, Any]] = {}
    for name, case in cases.items():
        try:
            found[name] = bench(case, device, given.precision, seconds)
        except Exception as problem:  # whatever it is, the other networks are to be measured
            traceback.print_exc()
            found[name] = {"failed": f"{type(problem).__name__}: {str(problem)[:200]}"}
    card = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    given.out.write_text(json.dumps({"device": card, "precision": given.precision, "cases": found}, indent=1))
    print(report(found, device, given))
    return int(any("failed" in case for case in found.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
