"""Exit history ``exits.jsonl``: early stops, failures, resumes, and ends of attempts."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path

from .console import print_line


def add_exit(run: Path, event: str, **facts: object) -> None:
    """Append a line: time, event, the batch system's job if there is one, and facts. On rank 0 only.

    A full disk loses it, with a warning.
    """
    job = os.environ.get("SLURM_JOB_ID") or os.environ.get("PBS_JOBID")
    time = datetime.now(timezone.utc).isoformat(timespec="seconds")
    line = {"time": time, "event": event, **({"batch_job": job} if job else {}), **facts}
    try:
        with open(run / "exits.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as problem:
        print_line(f"warning: {run / 'exits.jsonl'}: lacks a line ({problem.strerror})")
