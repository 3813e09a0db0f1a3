"""Checks of what sites differ in: peer access of GPUs, NCCL's network, clocks, energy, file systems."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from ...errors import UserError
from ...rundir.path_checks import free_bytes, in_words
from ..launch_checks import global_batch
from .check_warning import CheckWarning
from .findings import Findings
from .rank_checks import world_of

_MOST_SKEW_S = 1.0
_ROW_OF_PLAN = 25
"""Bytes of a row in a ledger file that no checkpoint has: id, train, weight, refresh, label, probability."""
_OF_ONE_NODE = {"localflock", "local_lock=all", "local_lock=flock", "local_lock=posix", "nolock"}
"""Options of mounts on which a lock is seen by its own node alone: Lustre's, then those of NFS."""


def check_site(findings: Findings) -> None:
    """Warn of a machine file that nobody has tried on its machine."""
    if findings.machine.untried:
        raise CheckWarning(f"{findings.machine.name}: not tried on site; {findings.machine.untried}")


def check_peers(findings: Findings) -> str | None:
    """Whether the GPUs of this node read each other's memory, as ``nvidia-smi topo -p2p r`` tells."""
    if findings.machine.gpus_per_node < 2 or findings.n_ranks is None:
        return None
    try:
        done = subprocess.run(["nvidia-smi", "topo", "-p2p", "r"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return "not known: nvidia-smi is not here, or does not answer"
    apart = pairs_without_access(done.stdout)
    if apart is None:
        return "not known: nvidia-smi topo -p2p r prints no table"
    if apart:
        raise CheckWarning(
            f"GPUs {apart[0][0]} and {apart[0][1]} do not read each other's memory, so NCCL goes through "
            "the host's; ask the site (access control of PCIe, IOMMU)"
        )
    return "all GPUs of this node read each other's memory"


def pairs_without_access(table: str) -> list[tuple[int, int]] | None:
    """Return the pairs of GPUs that are not OK in a table of ``nvidia-smi topo -p2p``; None of no table."""
    rows = [line.split() for line in table.splitlines() if re.match(r"\s*GPU\d+\s+[A-Z]+\b(?!\d)", line)]
    if not rows:
        return None
    return [(i, j) for i, row in enumerate(rows) for j, word in enumerate(row[1:]) if j > i and word != "OK"]


def check_network(findings: Findings) -> str | None:
    """Which network NCCL has chosen: sockets are its silent last resort."""
    if findings.n_ranks is None or not findings.machine.gpus_per_node:
        return None
    facts = world_of(findings)
    network, n_nodes = nccl_network(facts.get("nccl_log", "")), len({rank["node"] for rank in facts["ranks"]})
    if network is None:
        return "not known: NCCL has logged none"
    if network == "Socket" and n_nodes > 1:
        raise CheckWarning(
            "NCCL has fallen back to sockets; load its network plugin, or name its interface "
            "(NCCL_IB_HCA, NCCL_SOCKET_IFNAME) in the machine file's environment"
        )
    return f"NCCL uses {network}"


def nccl_network(log: str) -> str | None:
    """Return the network that NCCL's log of NCCL_DEBUG=INFO names, ``IB``; None where it names none."""
    named = re.findall(r"NCCL INFO Using network (.+?)\s*$", log, re.MULTILINE)
    return named[-1] if named else None


def check_clocks(findings: Findings) -> str | None:
    """Whether the nodes' clocks agree: files are told apart by their times."""
    times: dict[str, float] = {}
    for rank in world_of(findings)["ranks"]:
        times.setdefault(rank["node"], rank["clock"])
    if len(times) < 2:
        return None
    first, last = min(times, key=times.__getitem__), max(times, key=times.__getitem__)
    skew = times[last] - times[first]
    if skew > _MOST_SKEW_S:
        raise CheckWarning(f"the clock of {last} is {skew:.1f} s ahead of that of {first}; tell the site")
    return f"{len(times)} nodes agree within {max(skew, 0.01):.2f} s"


def check_energy(findings: Findings) -> str:
    """Which energy counters the first rank can read."""
    meters = world_of(findings)["ranks"][0]["energy"]
    return f"joules of {' and '.join(meters)} can be read" if meters else "not known: no counter can be read"


def check_runs(findings: Findings) -> str:
    """The file system of the run directories: its locks and free space."""
    folder = _folder_of_runs(findings)
    kind, options = file_system(folder, Path("/proc/mounts").read_text())
    free = in_words(free_bytes(folder)[1])
    if _OF_ONE_NODE & set(options):
        raise CheckWarning(
            f"{folder} is on {kind}, whose locks are each node's own, {free} free; take care that no run is "
            "started twice from two nodes"
        )
    if kind == "lustre" and "flock" not in options:
        raise CheckWarning(
            f"{folder} is on a Lustre mounted without flock, {free} free: nothing keeps two runs out of one "
            "directory but their heartbeats; take care, or ask the site for -o flock"
        )
    if kind == "tmpfs":
        raise CheckWarning(f"{folder} is in memory (tmpfs), {free} free; checkpoints are lost with the node")
    return f"{folder} is on {kind or 'an unknown file system'}, {free} free"


def check_space(findings: Findings) -> str | None:
    """Whether the checkpoints and ledger files of the whole run fit where it writes them."""
    job = findings.job
    if job is None:
        return None
    try:
        facts = findings.checkpoint
        n, batch = facts["samples"], global_batch(job, findings.n_job_ranks)
        epochs = job.training.in_epochs(n, batch).epochs
    except UserError as problem:
        return f"not known: {problem}"
    size, n_there = facts["learner"] + n * facts["row"], job.record.keep + 2
    ledgers = n * (facts["row"] + _ROW_OF_PLAN) * epochs if job.record.ledger else 0
    folder, needed = _folder_of_runs(findings), size * n_there + ledgers
    free = free_bytes(folder)[1]
    files = f", and {in_words(ledgers)} of ledger files" if ledgers else ""
    need = f"{n_there} checkpoints of {in_words(size)} (record.keep, the best, the one being written){files}"
    if free < needed:
        raise CheckWarning(
            f"{folder} has {in_words(free)} free, but the run needs {in_words(needed)}: {need}; make room, "
            "or lower record.keep"
        )
    return f"{need}; {in_words(free)} free in {folder}"


def _folder_of_runs(findings: Findings) -> Path:
    """Return the folder of the run directories, or of those above it the first that is there."""
    folder = (findings.run or Path("runs")).resolve()
    while not folder.exists():
        folder = folder.parent
    return folder


def file_system(folder: Path, mounts: str) -> tuple[str, list[str]]:
    """Return type and options of the file system of a folder, by the text of /proc/mounts."""
    best, found = -1, ("", [""])
    for line in mounts.splitlines():
        _, point, kind, options, *_ = line.split()
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), point)
        inside = os.path.commonpath([point, str(folder)]) == point
        if inside and len(point) >= best:  # of two at one place the later one is on top
            best, found = len(point), (kind, options.split(","))
    return found
