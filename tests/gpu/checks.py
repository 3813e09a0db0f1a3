"""Checks of what a GPU might do otherwise than a CPU, each runnable without pytest.

    python tests/gpu/checks.py [--device cpu] [--only NAME,...] [--out gpu_checks.json]

On a CPU the same code runs with the device swapped, and what it does not exercise is named. Writes one JSON
file and prints one table; ends with 1 if a check failed.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts"), str(ROOT / "tests")]
if (
    "--device" in sys.argv and "cpu" in sys.argv
):  # before torch looks for GPUs, so that runs in here find none
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic algorithms need it

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from bench_common import header  # noqa: E402
from noise import noise_job  # noqa: E402
from support.host_waits import HostWaits  # noqa: E402
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks  # noqa: E402

from kakurenbo_hpc.config.job import Job  # noqa: E402
from kakurenbo_hpc.core.batch import Batch  # noqa: E402
from kakurenbo_hpc.core.plan import Epoch  # noqa: E402
from kakurenbo_hpc.data.loader import plain_micro_batches  # noqa: E402
from kakurenbo_hpc.data.pinned_pool import PinnedPool  # noqa: E402
from kakurenbo_hpc.distributed.comm import SerialComm  # noqa: E402
from kakurenbo_hpc.distributed.ddp import DdpSync  # noqa: E402
from kakurenbo_hpc.distributed.world import World  # noqa: E402
from kakurenbo_hpc.engine.context import Context  # noqa: E402
from kakurenbo_hpc.engine.epoch import EpochResult, run_epoch  # noqa: E402
from kakurenbo_hpc.engine.run import run  # noqa: E402
from kakurenbo_hpc.engine.set_up import set_up  # noqa: E402
from kakurenbo_hpc.rundir.timers import StageTimer  # noqa: E402
from kakurenbo_hpc.selection.method import init_ledger  # noqa: E402

CPU = torch.device("cpu")
MODEL = {"name": "small_cnn", "options": {"width": 8, "norm": "batch"}}
DATA = {"n": 192, "shape": [3, 16, 16]}
EPOCHS = 3
METHODS = ("everything", "kakurenbo", "infobatch", "iswr", "ucb", "random")  # at epoch level
FUSED = {"optimizer_options": {"fused": True}}  # as on GPUs, where it is the default
OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "adagrad", "lamb", "lion")


@dataclass
class Outcome:
    """What a check found: figures by name, and assertions that this device could not exercise."""

    figures: dict[str, object] = field(default_factory=dict)
    not_exercised: list[str] = field(default_factory=list)


class Here:
    """A job on one device, without a run directory: set up, joined, with its ledger."""

    def __init__(self, job: Job, device: torch.device):
        world = World(SerialComm(), "here", 0, 1, device)
        self.context: Context = set_up(job, world, job.selection)
        self.context.learner.join(DdpSync(world), self.context.data.shape)
        self.job, self.method_state = job, job.selection.init_state()
        self.ledger = init_ledger(
            job.selection, self.context.homes, world.comm, self.context.data.fingerprint
        )

    def epoch(self, number: int) -> EpochResult:
        epoch = Epoch(number, self.job.training.epochs, self.job.seed)
        timer = StageTimer(self.context.world.device)
        result = run_epoch(epoch, self.ledger, self.method_state, self.context, timer)
        self.ledger, self.method_state = result.ledger, result.method_state
        return result


def job(method: str = "everything", **training: object) -> Job:
    return noise_job(method, MODEL, DATA, **{"epochs": EPOCHS, "global_batch": 32, **training})


def check_plan(device: torch.device) -> Outcome:
    """Same plan, order and hidden sets as on the CPU from the same ledger; losses within tolerance."""
    outcome, worst, changed = Outcome(), 0.0, []
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    else:
        outcome.not_exercised.append("losses of one device beside another's")
    for method in METHODS:
        here, there, alone = Here(job(method), CPU), Here(job(method), device), Here(job(method), device)
        for number in range(EPOCHS):
            mine, theirs, own = here.epoch(number), there.epoch(number), alone.epoch(number)
            assert mine.metrics["order_hash"] == theirs.metrics["order_hash"], (method, number)
            assert np.array_equal(mine.plan.train, theirs.plan.train), (method, number)
            assert mine.metrics["n_hidden"] == theirs.metrics["n_hidden"], (method, number)
            np.testing.assert_allclose(theirs.ledger.loss, mine.ledger.loss, rtol=2e-2, atol=2e-3)
            seen = np.isfinite(mine.ledger.loss)
            worst = max(worst, float(np.abs(theirs.ledger.loss[seen] - mine.ledger.loss[seen]).max()))
            changed.append(float(np.mean((own.plan.train == 0) != (mine.plan.train == 0))))
            there.ledger, there.method_state = here.ledger, here.method_state
            there.context.learner.load_state_dict(copy.deepcopy(here.context.learner.state_dict()))
            there.context.learner.load_buffers(here.context.learner.buffers())
    outcome.figures |= {"largest difference of a loss": worst, "hidden otherwise, alone": max(changed)}
    return outcome


def check_resume(device: torch.device) -> Outcome:
    """A run that is left after an epoch goes on bit for bit, with deterministic algorithms."""
    torch.use_deterministic_algorithms(True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            whole, parts = Path(folder, "whole"), Path(folder, "parts")
            made = job("kakurenbo", precision="fp16" if device.type == "cuda" else "fp32")
            assert run(made, whole, SerialComm()) == 0
            gc.collect()  # the run before this one may have left what holds its locks
            shutil.copytree(whole, parts)
            shutil.rmtree(parts / "checkpoints" / f"epoch_{EPOCHS - 1:04d}")
            assert run(made, parts, SerialComm(), resume=True) == 0
            left, right = (_network(directory) for directory in (whole, parts))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(left[name], right[name]) for name in left)
    named = ["deterministic algorithms of CUDA; a loss scale that is resumed"]
    return Outcome({"parameters": len(left)}, [] if device.type == "cuda" else named)


def check_no_waiting(device: torch.device) -> Outcome:
    """A training pass of an epoch-level method waits for the device nowhere, at any precision."""
    precisions = ("fp32", "bf16", "fp16") if device.type == "cuda" else ("fp32", "bf16")
    for precision in precisions:
        for optimizer in ("sgd", "adam", "adamw"):
            here = Here(
                job("everything", precision=precision, optimizer=optimizer, clip_norm=1.0, ema=0.9, **FUSED),
                device,
            )
            here.epoch(0)
            _train_watched(here, device)
    try:
        with _watched(device):
            float(torch.ones((), device=device))
    except (RuntimeError, AssertionError):
        pass
    else:
        raise AssertionError("a read of the device's memory was not noticed")
    named = ["torch.cuda.set_sync_debug_mode: copies between host and device"]
    return Outcome({"trainings": 3 * len(precisions)}, [] if device.type == "cuda" else named)


def check_skipped_steps(device: torch.device) -> Outcome:
    """The device skips what the host would skip, from the first step on, and counts it."""
    waiting = []
    for optimizer in OPTIMIZERS:
        fused = FUSED if optimizer in ("sgd", "adam", "adamw") else {}
        on_device, on_host = (
            Here(job(optimizer=optimizer, **fused), device).context.learner for _ in range(2)
        )
        on_host._steps.waits = True
        if on_device._steps.waits:
            waiting.append(optimizer)
        for learner in (on_device, on_host):
            learner.begin_epoch(0, 1.0)
            for number in range(12):
                factor = torch.nan if number in (0, 4, 5) else 1.0
                hook = next(learner.model.parameters()).register_hook(lambda g, by=factor: g * by)
                learner.step(_batch(number, device))
                hook.remove()
            assert learner.n_skipped == 3, (optimizer, learner.n_skipped)
        pairs = zip(on_device.model.parameters(), on_host.model.parameters(), strict=True)
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in pairs), optimizer
    assert not set(waiting) & {"sgd", "adam", "adamw"}
    return Outcome({"wait in every step": ", ".join(waiting)})


def check_precisions(device: torch.device) -> Outcome:
    """fp16 halves its loss scale after an overflow and leaves the weights; bf16 computes in bf16."""
    learner = Here(job(precision="fp16", **FUSED), device).context.learner
    learner.begin_epoch(0, 1.0)
    learner.step(_batch(0, device))
    before, scale = [p.detach().clone() for p in learner.model.parameters()], learner.scaler.get_scale()
    hook = next(learner.model.parameters()).register_hook(lambda g: g * torch.inf)
    learner.step(_batch(1, device))
    hook.remove()
    assert learner.scaler.get_scale() == scale / 2 and learner.n_skipped >= 1
    assert all(torch.equal(a, b) for a, b in zip(before, learner.model.parameters(), strict=True))
    bf16 = Here(job(precision="bf16"), device).context.learner
    assert bf16._output(bf16.model, _batch(0, device).input).dtype == torch.bfloat16
    return Outcome({"loss scale": scale})


def check_pinned_pool(device: torch.device) -> Outcome:
    """A buffer is never handed out while it is being copied, however far the device lags behind."""
    pool = PinnedPool((1 << 18,), np.dtype(np.float32), pinned=device.type == "cuda")
    moved = []
    for number in range(64):
        if device.type == "cuda":
            torch.cuda._sleep(20_000_000)  # some 10 ms
        array = pool.take(2)
        array[:] = number
        moved.append(pool.to(array, device))
        del array
    assert all(bool((tensor == number).all()) for number, tensor in enumerate(moved))
    n_buffers = len(pool._memory)
    moved.clear()
    if device.type == "cuda":
        torch.cuda.synchronize()
    pool.take(2)
    assert len(pool._memory) == n_buffers, "free buffers are used again"
    named = ["events of copies in flight"]
    return Outcome({"buffers for 64 copies": n_buffers}, [] if device.type == "cuda" else named)


def check_one_rank_group(device: torch.device) -> Outcome:
    """NCCL with one rank sums and averages."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        values = torch.arange(5.0, device=device)
        dist.all_reduce(values)
        assert values.tolist() == [0, 1, 2, 3, 4]
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 2).to(device))
        if device.type == "cuda":
            model.register_comm_hook(None, default_hooks.bf16_compress_hook)
        model(torch.ones(3, 4, device=device)).sum().backward()
        assert next(model.parameters()).grad.eq(3).all()
    finally:
        dist.destroy_process_group()
    return Outcome({"backend": backend}, [] if device.type == "cuda" else ["NCCL; gradients as bfloat16"])


def check_two_ranks(device: torch.device) -> Outcome:
    """Two ranks on one GPU, through Gloo: the gradient is the mean over ranks."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--device", device.type, "--store", f"{folder}/store", "--rank"]
        ranks = [subprocess.Popen([*command, str(rank)]) for rank in range(2)]
        try:
            assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
        finally:
            for rank in ranks:
                rank.kill()
    return Outcome({"ranks": 2}, [] if device.type == "cuda" else ["two processes on one GPU"])


def be_a_rank(rank: int, store: str, device: torch.device) -> None:
    """Compare a gradient of DDP on two ranks with the mean of both ranks' own."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    torch.manual_seed(0)
    inputs = torch.randn(2, 4, 6, device=device)
    alone = torch.nn.Linear(6, 3).to(device)
    together = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(6, 3).to(device))
    together.module.load_state_dict(alone.state_dict())
    together(inputs[rank]).square().mean().backward()
    torch.stack([alone(half).square().mean() for half in inputs]).mean().backward()
    torch.testing.assert_close(together.module.weight.grad, alone.weight.grad)
    dist.destroy_process_group()


CHECKS: dict[str, Callable[[torch.device], Outcome]] = {
    "plan": check_plan,
    "resume": check_resume,
    "no_waiting": check_no_waiting,
    "skipped_steps": check_skipped_steps,
    "precisions": check_precisions,
    "pinned_pool": check_pinned_pool,
    "one_rank_group": check_one_rank_group,
    "two_ranks": check_two_ranks,
}


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cuda", "cpu"], default=found, help="default: %(default)s")
    parser.add_argument("--only", help=f"some of {', '.join(CHECKS)}")
    parser.add_argument("--out", type=Path, default=Path("gpu_checks.json"), help="default: %(default)s")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    device = torch.device(given.device)
    if given.rank is not None:
        be_a_rank(given.rank, given.store, device)
        return 0
    names = given.only.split(",") if given.only else list(CHECKS)
    results = {name: _run(CHECKS[name], device) for name in names}
    given.out.write_text(json.dumps({"device": _name(device), "checks": results}, indent=1) + "\n")
    n_good = sum(result["passed"] for result in results.values())
    print(f"result:    {n_good} of {len(results)} checks passed on {_name(device)}")
    print(header(("numpy", "torch"), "1"))
    print("\n| check | | seconds | found |\n|---|---|---|---|")
    for name, result in results.items():
        figures = ", ".join(f"{key} {value}" for key, value in result["figures"].items())
        print(f"| {name} | {'ok' if result['passed'] else 'FAILED'} | {result['seconds']:.1f} | {figures} |")
    for name, result in results.items():
        print(*(f"not exercised here: {name}: {what}" for what in result["not_exercised"]), sep="\n", end="")
        print(end="\n" if result["not_exercised"] else "")
    return int(n_good < len(results))


def _run(check: Callable[[torch.device], Outcome], device: torch.device) -> dict:
    begun, passed, outcome = time.perf_counter(), True, Outcome()
    try:
        outcome = check(device)
    except Exception:  # whatever it is, the other checks are to run
        traceback.print_exc()
        passed = False
    return {"passed": passed, "seconds": time.perf_counter() - begun, **vars(outcome)}


def _watched(device: torch.device):
    """Return a context in which the host must not wait for the device."""
    return _SyncDebug() if device.type == "cuda" else HostWaits()


class _SyncDebug:
    def __enter__(self) -> None:
        torch.cuda.set_sync_debug_mode("error")

    def __exit__(self, *_: object) -> None:
        torch.cuda.set_sync_debug_mode("default")


def _train_watched(here: Here, device: torch.device) -> None:
    """Run the steps of an epoch, reading included, under watch; afterwards the counts come home."""
    learner, context = here.context.learner, here.context
    learner.begin_epoch(1, 1.0)
    micro_batches = plain_micro_batches(0, DATA["n"], 32)
    if device.type == "cpu":
        learner._steps._count_until = lambda n_left: None  # decisions are in the host's memory here
    batches = (
        context.train(micro_batches, 1, True)
        if device.type == "cuda"
        else list(context.train(micro_batches, 1, True))
    )
    with _watched(device):
        stats = [learner.step(batch) for batch in batches]
    assert learner.n_skipped == 0 and len(stats) == len(micro_batches)


def _batch(number: int, device: torch.device) -> Batch:
    (micro_batch,) = plain_micro_batches(0, 16, 16)
    drawn = torch.Generator().manual_seed(number)
    images = torch.randn(16, *DATA["shape"], generator=drawn)
    return Batch(micro_batch, images.to(device), (torch.arange(16) % 10).to(device))


def _network(directory: Path) -> dict[str, torch.Tensor]:
    path = directory / "checkpoints" / f"epoch_{EPOCHS - 1:04d}" / "learner.pt"
    return torch.load(path, weights_only=True)["model"]


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
