"""How much memory one rank needs for its ledger, a plan of KAKURENBO, and the order of the epoch: peak
resident memory.

    python scripts/bench_memory.py [--n 100000000]

The ledger is filled with made losses; ids are implicit. Torch is loaded, as it is on every rank of a run.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence

import numpy as np
from bench_common import header, say, verdict

from kakurenbo_hpc.core.ledger import Ledger
from kakurenbo_hpc.core.plan import Epoch, Plan
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.order.deal import EpochSchedule, deal
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.selection.global_stats import GlobalStats

EPOCH = Epoch(1, 10, 0)
WANTED = 2.5  # GB for 100M samples, of the whole process


def filled(n: int) -> Ledger:
    """Return a ledger of an epoch that is over, written piece by piece into its own columns."""
    rng, ledger = np.random.default_rng(0), Ledger.unseen(n, 0, n)
    for first in range(0, n, 1 << 16):
        part = slice(first, first + (1 << 16))
        ledger.loss[part] = rng.lognormal(-1, 1, len(ledger.loss[part]))
        ledger.confidence[part] = np.exp(-ledger.loss[part])
        ledger.correct[part] = ledger.confidence[part] > 0.5
        ledger.seen_epoch[part] = 0
    return ledger


def plan(ledger: Ledger) -> Plan:
    return METHODS["kakurenbo"](method="kakurenbo").plan(EPOCH, ledger, GlobalStats(SerialComm()))


def order(ledger: Ledger, plan: Plan) -> EpochSchedule:
    return deal(ledger.rows, plan.train, EPOCH, SerialComm(), 4096)


def peak() -> float:
    """Return the largest resident memory of this process so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=100_000_000, help="samples (default: %(default)s)")
    n = parser.parse_args(words).n
    context, before = [("Python, torch and our code", peak(), 0.0)], peak()
    made = []
    for name, work in (
        ("the ledger", lambda: filled(n)),
        ("a plan", lambda: plan(*made)),
        ("the order", lambda: order(*made)),
    ):
        say(f"{name} of {n:,} samples ...")
        begun = time.perf_counter()
        made.append(work())
        context.append((name, peak(), time.perf_counter() - begun))
    lines = [
        f"result:    {peak() / 1e9:.2f} GB peak resident memory for {n:,} samples, "
        f"{(peak() - before) / n:.1f} bytes a sample",
        header(("numpy", "torch"), "1; memory hardly varies"),
        f"data:      made losses, {made[1].train.mean():.0%} of the samples trained",
        "",
        "peak so far, GB            seconds",
        *(f"  {bytes / 1e9:>6.2f}  {name:<26} {seconds:.1f}" for name, bytes, seconds in context),
        "",
        verdict(peak() <= WANTED * 1e9, f"at most {WANTED} GB in all for {n:,} samples: {peak() / 1e9:.2f}"),
    ]
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
