"""A PBS of stand-ins: qsub, qstat, qdel and pbsnodes on files in a folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = Path(__file__).parents[1] / "cluster" / "programs" / "pbs.py"


class PbsSite:
    """Facts of the site and its jobs. path: the PATH on login node and in jobs."""

    def __init__(self, folder: Path, **facts: object):
        self.folder, commands = folder, folder / "bin"
        commands.mkdir(parents=True)
        for name in ("qsub", "qstat", "qdel", "pbsnodes"):
            (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{PROGRAM}" {name} "$@"\n')
            (commands / name).chmod(0o755)
        self.path = f"{commands}:{Path(sys.executable).parent}:/usr/bin:/bin"
        self.environment = {"PBS_HERE": str(folder), "PATH": self.path, "HOME": str(folder.parent)}
        self._facts: dict[str, object] = {"path": self.path, "kill_delay": 3}
        self.set(**facts)

    def set(self, **facts: object) -> None:
        """Change facts: history, queues, server, nodes, path."""
        self._facts |= facts
        (self.folder / "site.json").write_text(json.dumps(self._facts))

    def add_job(self, number: int, state: str, **facts: object) -> str:
        """Add a job in some state, and return its id."""
        job = {"id": f"{number}.here", "name": "digits", "queue": "workq", "state": state, **facts}
        (self.folder / f"{number}.job").write_text(json.dumps(job))
        return str(job["id"])


@contextmanager
def pbs_site(folder: Path, environ: dict[str, str], **facts: object) -> Iterator[PbsSite]:
    """Yield a site, and delete its jobs at the end. environ: of who deletes them."""
    site = PbsSite(folder, **facts)
    yield site
    for job in folder.glob("*.job"):  # of a test that failed; one that has ended is refused
        subprocess.run(["qdel", job.stem], env=environ | site.environment, capture_output=True)
