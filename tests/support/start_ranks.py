"""Starts real ranks: mpirun or torchrun, of this Python, and waits for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROGRAMS = Path(__file__).parents[1] / "ranks" / "programs"
BIN = Path(sys.executable).parent


def environment() -> dict[str, str]:
    """Return the environment of a plain shell of this user: no variables of a starter, nor the one that our
    command line sets in a test's own process; root allowed where we are root.
    """
    others = ("OMPI_", "PMI", "PRTE_", "SLURM_", "PBS_", "PYTHONSAFEPATH")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    if os.geteuid() == 0:
        clean |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return clean


def command(starter: str, n: int) -> list[str]:
    if starter == "alone":
        return [sys.executable]
    if starter == "torchrun":
        return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n)]
    found = shutil.which("mpirun") or str(BIN / "mpirun")
    flags = ["--oversubscribe", "--bind-to", "none"] if _open_mpi(found) else []
    return [found, "-n", str(n), *flags, sys.executable]


def start(
    n: int, *words: object, starter: str = "mpirun", timeout: float = 180
) -> subprocess.CompletedProcess:
    """Run ``python WORDS`` on n ranks to its end; output as text. Raises TimeoutExpired where ranks hang."""
    if n == 1 and starter == "mpirun":
        starter = "alone"
    return subprocess.run(
        [*command(starter, n), *map(str, words)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def train(
    n: int, *words: object, starter: str = "mpirun", timeout: float = 180
) -> subprocess.CompletedProcess:
    """Run ``kakurenbo train WORDS`` on n ranks."""
    return start(n, "-m", "kakurenbo_hpc.cli", "train", *words, starter=starter, timeout=timeout)


def _open_mpi(mpirun: str) -> bool:
    return (
        "Open MPI"
        in subprocess.run([mpirun, "--version"], env=environment(), capture_output=True, text=True).stdout
    )
