"""Provenance file ``provenance.json``: versions, machine, command and commit of a run."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch

from .. import __version__
from ..core.cpu_topology import count_physical_cores
from .atomic_io import write_whole

_LIBRARIES = ("torch", "numpy", "mpi4py", "timm", "torchvision", "h5py", "scikit-learn", "horovod")


def write_provenance(run: Path, facts: dict) -> dict:
    """Write the provenance and the facts of this run; return both. On rank 0 only."""
    known = {**provenance(), **facts}
    write_whole(run / "provenance.json", json.dumps(known, indent=2) + "\n")
    return known


def provenance() -> dict:
    """Return versions, machine, command and git commit."""
    return {
        "kakurenbo_hpc": __version__,
        "commit": _commit(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "environment": sys.prefix,
        "platform": platform.platform(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "cuda": torch.version.cuda,
        "cores": os.cpu_count(),
        "physical_cores": count_physical_cores(of_machine=True),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads_per_rank": torch.get_num_threads(),
        "batch_job": os.environ.get("SLURM_JOB_ID") or os.environ.get("PBS_JOBID"),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of this checkout, with '+' if it was changed; None for an installed package."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        outputs = [
            subprocess.run(
                ["git", "-C", str(here), *words], capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return outputs[0] + ("+" if outputs[1] else "")
