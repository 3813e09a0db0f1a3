"""Exit history ``exits.jsonl``: a line for each time that a run stopped early, failed, or was resumed."""

from __future__ import annotations

import contextlib
import json
import os
from datetime import datetime, timezone
from pathlib import Path


def add_exit(run: Path, event: str, **facts: object) -> None:
    """Append a line: time, event, the batch system's job if there is one, and facts. On rank 0 only.

    A full disk loses it, without an error.
    """
    job = os.environ.get("SLURM_JOB_ID") or os.environ.get("PBS_JOBID")
    time = datetime.now(timezone.utc).isoformat(timespec="seconds")
    line = {"time": time, "event": event, **({"batch_job": job} if job else {}), **facts}
    with contextlib.suppress(OSError), open(run / "exits.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
