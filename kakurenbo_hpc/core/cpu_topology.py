"""CPU topology of this node: physical cores, hardware threads, NUMA nodes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import WorldError

_CPUS = Path("/sys/devices/system/cpu")


def count_physical_cores(of_machine: bool = False) -> int:
    """Return the number of physical cores; of hardware threads where the kernel does not tell.

    Args:
        of_machine: count all cores that are online; otherwise those that this process may use, which Open MPI
            takes for its slots.
    """
    return len(group_by_core(_online_threads() if of_machine else os.sched_getaffinity(0)))


def group_by_core(threads: Iterable[int]) -> list[list[int]]:
    """Return hardware threads grouped by physical core."""
    cores: dict[str, list[int]] = {}
    for thread in threads:
        try:
            siblings = (_CPUS / f"cpu{thread}/topology/thread_siblings_list").read_text()
        except OSError:
            siblings = str(thread)
        cores.setdefault(siblings, []).append(thread)
    return list(cores.values())


def _online_threads() -> set[int]:
    try:
        return parse_cpu_list((_CPUS / "online").read_text())
    except OSError:
        return set(range(os.cpu_count() or 1))


def numa_threads(numa_node: int) -> set[int]:
    """Return the hardware threads of a NUMA node.

    Raises:
        WorldError: this machine has no such node.
    """
    try:
        return parse_cpu_list(Path(f"/sys/devices/system/node/node{numa_node}/cpulist").read_text())
    except OSError:
        raise WorldError(
            f"{os.uname().nodename} has no NUMA node {numa_node}; correct gpu_numa in the machine file"
        ) from None


def parse_cpu_list(text: str) -> set[int]:
    """Return the numbers of the kernel's notation: ``0-9,40-49``."""
    numbers: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


def format_cpu_list(numbers: set[int]) -> str:
    """Return numbers in the kernel's notation."""
    starts = sorted(number for number in numbers if number - 1 not in numbers)
    ends = sorted(number for number in numbers if number + 1 not in numbers)
    pairs = zip(starts, ends, strict=True)
    return ",".join(f"{first}-{last}" if first != last else f"{first}" for first, last in pairs)
