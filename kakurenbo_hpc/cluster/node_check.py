"""Check of one node before ranks start on it: GPUs, run directory, scratch folder. Seconds, without torch.

``python -m kakurenbo_hpc.cluster.node_check MACHINE RUN``, on the node; prints what is wrong.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ..errors import DONE, FAILED
from .machine import Machine, read_machine

_LIMIT_S = 20


def find_problems(machine: Machine, run: Path) -> Iterator[str]:
    """Yield what keeps ranks from running on this node, one clause each."""
    if not run.is_dir():
        yield f"{run} is not seen there"
    if machine.scratch and not _can_write(Path(os.path.expandvars(machine.scratch))):
        yield f"scratch {machine.scratch} cannot be written to"
    if machine.gpus_per_node and shutil.which("nvidia-smi"):
        n_gpus = _count_gpus()
        if n_gpus < machine.gpus_per_node:
            yield f"nvidia-smi lists {n_gpus} of {machine.gpus_per_node} GPUs"


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _count_gpus() -> int:
    """Return the GPUs that answer; a GPU that fell off the bus lets nvidia-smi fail or hang."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())


def main(words: list[str]) -> int:
    """Check this node; print its problems, and return whether there are any as an exit code."""
    problems = list(find_problems(read_machine(words[0]), Path(words[1])))
    print("; ".join(problems), flush=True)
    return FAILED if problems else DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
