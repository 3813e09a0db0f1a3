"""Cost model of planning and training: counts as on real ranks, seconds from a rank's own work and a network.

The counts of an epoch's calls are formulas of samples and ranks; ``bench_scaling.py`` holds them against
those of real ranks. A rank's own work is measured on one rank's share, with arrays as long as the ranks are
many (``counted_comm.Simulated``). Network time is that of the textbook's algorithms.

Source: Thakur, Rabenseifner and Gropp 2005, "Optimization of collective communication operations in MPICH".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from counted_comm import Call

from kakurenbo_hpc.distributed.comm import grid_width

ROW_BYTES = 25  # id, position, loss, correct and confidence of a sample that goes home
WORST_PLAN = [16, 8, 8, 16384, 16, 16, 16, 8192, 8192, 8192, 8192, 8, 24]
"""Bytes of the reductions of KAKURENBO's plan where the first bracket misses and values tie."""


@dataclass(frozen=True)
class Network:
    """Published figures of a network.

    Attributes:
        name: machine and network.
        latency_s: of a short message between two nodes.
        bytes_per_s: of one rank, each way: what a node takes, divided by its ranks.
        sources: of both figures.
    """

    name: str
    latency_s: float
    bytes_per_s: float
    sources: str


NETWORKS = [
    Network(
        "Frontier, Slingshot-11, 8 ranks a node",
        2.8e-6,
        100e9 / 8,
        "100 GB/s a node: docs.olcf.ornl.gov/systems/frontier_user_guide.html, System Interconnect; 2.8 us: "
        "osu_latency, 8 bytes, Cray MPICH on Slingshot-11, eessi.io/docs/blog/2026/05/11/"
        "EESSI-on-Cray-Slingshot-part2",
    ),
    Network(
        "Summit, EDR InfiniBand, 6 V100 a node",
        1.05e-6,
        23e9 / 6,
        "23 GB/s a node: docs.olcf.ornl.gov/systems/summit_user_guide.html, System Interconnect; 1.05 us: "
        "EDR, learn.microsoft.com/azure/virtual-machines/hc-series-performance",
    ),
]


@dataclass(frozen=True)
class Training:
    """Assumptions about the training of an epoch.

    Attributes:
        samples_per_s: of a rank, forward and backward.
        batch_per_rank: samples of a rank in a step.
        gradient_bytes: of the network's gradients.
        overlap: share of the backward pass under which gradients are exchanged, 0 to 1.
        slow_rank: how many times as long as the others the slowest rank takes.
        hidden: share of the samples that is hidden; they are passed forward, in a third of the time.
    """

    samples_per_s: float = 400.0
    batch_per_rank: int = 32
    gradient_bytes: float = 102e6
    overlap: float = 0.9
    slow_rank: float = 1.0
    hidden: float = 0.2


def count_epoch(n: int, n_trained: int, n_ranks: int, plan: list[int]) -> dict[str, list[Call]]:
    """Return the calls of an epoch's planning by stage: bytes of all ranks, messages of one rank.

    Messages are at most as many: with fewer steps than ranks an exchange has fewer targets.

    Args:
        n: samples.
        n_trained: those that are trained; the others are refreshed.
        n_ranks: ranks.
        plan: bytes that a rank hands in at each reduction of the plan; they depend on the losses alone.
    """
    deal, home = [], []
    for n_entries in (n_trained, n - n_trained):
        number = Call("reduce", 8 * n_ranks)
        exchange = [Call("exchange", 8 * n_entries, n_ranks - 1)] if n_ranks > 1 else []
        deal += [number, *exchange, number, number, number, number, *exchange]
        home.append(Call("exchange", ROW_BYTES * n_entries, n_ranks - 1))
    by_place = Call("reduce", 8 * n_ranks * n_ranks)
    return {
        "plan": [Call("reduce", n_bytes * n_ranks) for n_bytes in plan],
        "deal": deal,
        "home": home,
        "exchange": [by_place] * (6 if n_ranks > 1 else 4),
    }


def network_seconds(call: Call, n_ranks: int, network: Network, two_hops_from: int = 1024) -> float:
    """Return the network's part of a call: a reduction by halving and doubling, an exchange by messages."""
    if n_ranks == 1:
        return 0.0
    own = call.n_bytes / n_ranks
    if call.kind == "reduce":
        return 2 * math.log2(n_ranks) * network.latency_s + 2 * own / network.bytes_per_s
    width = grid_width(n_ranks) if n_ranks >= two_hops_from else n_ranks
    hops = [n_ranks] if width == n_ranks else [width, n_ranks // width]
    counts = 8 * n_ranks * (1 if len(hops) == 1 else 2)
    messages = 2 * sum(hop - 1 for hop in hops)  # the counts, and the rows
    return messages * network.latency_s + (len(hops) * own + counts) / network.bytes_per_s


def planning_seconds(
    own_s: dict[str, float], calls: dict[str, list[Call]], n_ranks: int, network: Network, local: bool = False
) -> float:
    """Return the seconds of planning an epoch. own_s: a rank's work by stage. local: with the exchange."""
    stages = [stage for stage in calls if local or stage != "exchange"]
    return sum(
        own_s[stage] + sum(network_seconds(call, n_ranks, network) for call in calls[stage])
        for stage in stages
    )


def training_seconds(n: int, n_ranks: int, network: Network, training: Training) -> tuple[float, float]:
    """Return the seconds of an epoch's passes, and those of them in gradient exchange that nothing hides."""
    step_s = training.batch_per_rank / training.samples_per_s
    n_steps = max(1, math.ceil((1 - training.hidden) * n / (training.batch_per_rank * n_ranks)))
    ring = 2 * training.gradient_bytes / network.bytes_per_s + 2 * math.log2(n_ranks) * network.latency_s
    exposed = n_steps * max(0.0, ring - training.overlap * step_s * 2 / 3) if n_ranks > 1 else 0.0
    refresh = training.hidden * n / n_ranks / training.samples_per_s / 3
    return n_steps * step_s * training.slow_rank + refresh * training.slow_rank + exposed, exposed


def hidden_imbalance(n: int, n_ranks: int, hidden: float) -> float:
    """Return how many times the mean visible samples the place with the most has, if nothing is exchanged.

    The largest of P binomial counts, by the normal bound sqrt(2 ln P) standard deviations above the mean.
    """
    share = n / n_ranks
    spread = math.sqrt(2 * math.log(n_ranks) * share * hidden * (1 - hidden)) if n_ranks > 1 else 0.0
    return 1 + spread / (share * (1 - hidden))


def limits(n_ranks: int, n: int) -> list[tuple[str, str, str]]:
    """Return what grows with the ranks, on n_ranks ranks: what it is, what it was before, what it is now."""
    width = grid_width(n_ranks)
    before_empty = max(0, n_ranks - 16384)
    id_bits = max(32, (n - 1).bit_length())
    kb, mb, gb = 1e3, 1e6, 1e9
    return [
        ("ranks that are home of no sample", f"{before_empty:,}", f"{max(0, n_ranks - (1 << 20)):,}"),
        (
            f"ids of {n:,} samples in the packed order",
            "wrong beyond 2^32" if n > 1 << 32 else "fit",
            f"{id_bits} bits, {64 - id_bits} of the hash",
        ),
        (
            "samples of a distributed sort, on every rank",
            f"{8 * n_ranks**2 / gb:,.1f} GB",
            f"{8 * n_ranks * min(n_ranks, max(1, (1 << 20) // n_ranks)) / mb:,.1f} MB",
        ),
        (
            "messages of an exchange, a rank",
            f"{2 * (n_ranks - 1):,}",
            f"{2 * (width + n_ranks // width - 2):,}",
        ),
        ("objects unpickled in a deal, a rank", f"{n_ranks:,}", "0"),
        ("objects unpickled in a step of Selective-Backprop, a rank", f"{2 * n_ranks:,}", "0"),
        ("objects unpickled for a check that all ranks pass, a rank", f"{n_ranks:,}", "0"),
        ("checksums of a checkpoint, sent to every rank", f"{180 * n_ranks / mb:,.1f} MB", "to rank 0 alone"),
        ("files in one heartbeat folder", f"{n_ranks:,}", f"{min(n_ranks, 1000):,}"),
        (
            "heartbeats written a second",
            f"{n_ranks / 8.3:,.0f}",
            f"{min(n_ranks / 8.3, n_ranks / max(8.3, n_ranks / 1000)):,.0f}",
        ),
        (
            "heartbeats read if the run hangs, by all ranks",
            f"{2 * n_ranks**2:,}",
            f"{2 * n_ranks * min(n_ranks, 64):,}",
        ),
        ("reductions of an exchange between shards, a rank", f"{48 * n_ranks / kb:,.0f} kB", "the same"),
        ("files of a checkpoint, and lines of its manifest", f"{n_ranks:,}", "the same"),
    ]
