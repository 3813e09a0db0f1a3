"""Checks on real ranks: that they meet, their GPUs, cores and scratch folders, and the speed of allreduce."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from ...errors import UserError
from .check_warning import CheckWarning
from .findings import Findings
from .software_checks import shorten
from .subprocess_json import Facts

RankFacts = dict[str, Any]


def check_ranks(findings: Findings) -> str:
    """Whether ranks start and meet."""
    ranks = findings.world["ranks"]
    nodes = sorted({rank["node"] for rank in ranks})
    return f"{len(ranks)} talk to each other, on {shorten(nodes)}"


def check_binding(findings: Findings) -> str:
    """Whether each rank has a GPU and cores of its own."""
    ranks_of_node: dict[str, list[RankFacts]] = defaultdict(list)
    ranks = world_of(findings)["ranks"]
    for rank in ranks:
        ranks_of_node[rank["node"]].append(rank)
    for node, node_ranks in ranks_of_node.items():
        _check_gpus(findings, node, node_ranks)
        _check_cores(findings, node, node_ranks)
    first = ranks[0]
    gpu = "a GPU of its own" if first["gpu"] else "no GPU"
    return (
        f"a rank may use {len(first['cpus'])} hardware threads, computes with {first['threads']}, has {gpu}"
    )


def _check_gpus(findings: Findings, node: str, ranks: list[RankFacts]) -> None:
    gpus, n_wanted = [rank["gpu"] for rank in ranks], findings.machine.gpus_per_node
    if findings.n_ranks and n_wanted and None in gpus:
        rank = ranks[gpus.index(None)]["rank"]
        raise UserError(f"rank {rank} on {node} finds no GPU; ask for {n_wanted} GPUs on each node")
    if None not in gpus and len(set(gpus)) < len(gpus):
        raise UserError(
            f"{len(gpus)} ranks on {node} share {len(set(gpus))} GPUs; start at most one rank per GPU"
        )


def _check_cores(findings: Findings, node: str, ranks: list[RankFacts]) -> None:
    threads, machine = set().union(*(rank["cpus"] for rank in ranks)), findings.machine
    if len(threads) < len(ranks):
        raise CheckWarning(
            f"{len(ranks)} ranks on {node} share {len(threads)} of its hardware threads; ask for more, or "
            "start fewer ranks"
        )
    poorest = min(ranks, key=lambda rank: len(rank["cpus"]))
    if findings.n_ranks and len(poorest["cpus"]) < (machine.cores_per_rank or 1):
        raise CheckWarning(
            f"rank {poorest['rank']} on {node} may use {len(poorest['cpus'])} hardware threads, but "
            f"{machine.name} has {machine.cores_per_rank} cores for each; correct cores_per_node, or what "
            "the launcher binds ranks to"
        )


def check_scratch(findings: Findings) -> str:
    """Whether each rank can write to the scratch folder."""
    if findings.machine.scratch is None:
        return "no folder in the machine file"
    ranks = world_of(findings)["ranks"]
    for rank in ranks:
        if problem := rank["scratch"].get("problem"):
            where = f"scratch {rank['scratch']['folder']} on {rank['node']}: {problem}"
            if findings.machine.scheduler != "none" and findings.n_ranks is None:
                raise CheckWarning(f"{where}; if the nodes have it, that is right: check there with --ranks")
            raise UserError(f"{where}; correct scratch in the machine file")
    first = ranks[0]["scratch"]
    return f"{first['folder']} can be written to, {first['free']} are free"


def check_allreduce(findings: Findings) -> str | None:
    """Measure the allreduces of a plan and of gradients."""
    if findings.n_ranks is None:
        return None
    facts = world_of(findings)
    if facts["latency_s"] is None:
        return "nothing to measure on one rank"
    latency, speed = facts["latency_s"] * 1e6, facts["bytes_per_s"] / 1e9
    return f"16 KiB of a plan in {latency:.0f} us, 64 MiB of gradients at {speed:.2f} GB/s"


def world_of(findings: Findings) -> Facts:
    """Return what ranks that were started found. Raises CheckWarning as long as they do not talk."""
    try:
        return findings.world
    except (UserError, CheckWarning):
        raise CheckWarning("not known as long as ranks do not talk") from None
