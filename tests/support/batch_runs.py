"""Runs that go through a batch system, watched from outside."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from support.start_ranks import environment

if TYPE_CHECKING:
    from support.slurm_cluster import SlurmHere

CLOCKS = ("seconds", "energy_gpu_j", "energy_cpu_j")  # metrics that no two runs share


def command_line_in(slurm: SlurmHere, folder: Path, *words: object) -> str:
    """Run the command line in a folder, where this Slurm is the batch system, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "kakurenbo_hpc.cli", *map(str, words)],
        env=environment() | {"SLURM_CONF": str(slurm.conf)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(ready: Callable[[], Any], what: Callable[[], str], seconds: float = 120, every: float = 0.1) -> Any:
    """Wait until something is true, and return it. Fails, with what there is to say, after many seconds.

    every: seconds between two looks; longer where a look takes time from those that are waited for.
    """
    give_up = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < give_up, what()
        time.sleep(every)
    return found


def metrics(run: Path) -> list[dict]:
    """Return the lines of a run's metrics, without the seconds that anything took."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [{key: value for key, value in json.loads(line).items() if key not in CLOCKS} for line in lines]


def log(run: Path) -> str:
    path = run / "batch" / "log.txt"
    return path.read_text() if path.exists() else "no log"


def state(kakurenbo: Callable[..., str], run: Path) -> str:
    """Return what ``kakurenbo status`` says of a run. kakurenbo: the command line."""
    return kakurenbo("status", run).splitlines()[1].removeprefix(str(run)).split()[1]


def ended(kakurenbo: Callable[..., str], run: Path, seconds: float = 120) -> str:
    """Wait until a run has ended, and return how."""
    return until(
        lambda: (word := state(kakurenbo, run)) in ("done", "failed", "cancelled") and word,
        lambda: log(run),
        seconds,
        every=1,
    )


@contextlib.contextmanager
def paused(run: Path) -> Iterator[list[psutil.Process]]:
    """Hold all that runs for a run here: launch, the starter, the ranks."""
    held = [
        process for process in psutil.process_iter(["cmdline"]) if str(run) in (process.info["cmdline"] or [])
    ]
    for process in held:
        process.suspend()
    try:
        yield held
    finally:
        for process in held:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def submit(kakurenbo: Callable[..., str], machine: Path, run: Path, *words: object) -> str:
    """Submit a run of ten minutes, and return the job id. kakurenbo: the command line."""
    facts = ("--machine", machine, "--walltime", "10m", "--run-dir", run)
    kakurenbo("submit", "digits_kakurenbo", *facts, *words)
    return (run / "batch" / "jobs.txt").read_text().split()[-1]
