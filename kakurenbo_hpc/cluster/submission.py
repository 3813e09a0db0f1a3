"""The folder ``batch`` in a run directory: what was submitted for the run, and what became of it.

It holds ``script.sh``, ``job.yaml`` (resolved), ``machine.yaml``, ``submission.json``, ``jobs.txt`` (job ids, the newest last),
``log.txt``, and ``exit_code`` once the script has ended.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import DONE, UserError
from ..rundir.atomic_io import write_whole
from .schedulers.pbs import Pbs
from .schedulers.scheduler import Scheduler, State
from .schedulers.slurm import Slurm

SCHEDULERS: dict[str, Scheduler] = {system.name: system for system in (Slurm(), Pbs())}
ENDED = ("done", "cancelled", "failed")


@dataclass(frozen=True)
class Submission:
    """What was submitted. walltime_s: seconds. scaling, seed: of the sweep that it is part of."""

    system: str
    name: str
    machine: str
    nodes: int
    ranks: int
    walltime_s: int
    scaling: str | None = None
    seed: int | None = None


class BatchFolder:
    """A run's folder ``batch``."""

    def __init__(self, run: Path):
        self.run = run
        self.folder = run / "batch"
        self.log = self.folder / "log.txt"

    def prepare(self, submission: Submission, files: dict[str, str]) -> None:
        """Write everything that a submission needs. Raises UserError if the folder cannot be written to."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "exit_code").unlink(missing_ok=True)
            (self.run / "stop").unlink(missing_ok=True)
            for name, text in files.items():
                write_whole(self.folder / name, text)
            write_whole(self.folder / "submission.json", json.dumps(asdict(submission), indent=1) + "\n")
        except OSError as problem:
            raise UserError(
                f"{self.folder}: cannot be written to ({problem.strerror}); give another --run-dir"
            ) from None

    def submit(self, dependency: str | None) -> str:
        """Hand the script to its batch system and return the job id."""
        job_id = self.system.submit(self.folder, dependency)
        with open(self.folder / "jobs.txt", "a") as file:
            file.write(f"{job_id}\n")
        return job_id

    def read(self) -> Submission:
        """Return what was submitted. Raises UserError if nothing was, for this run."""
        path = self.folder / "submission.json"
        try:
            found = Submission(**json.loads(path.read_text()))
            if found.system in SCHEDULERS:
                return found
        except OSError:
            raise UserError(
                f"{self.run}: nothing was submitted for a run there; name the run directory that submit printed"
            ) from None
        except (ValueError, TypeError, RecursionError):
            pass
        raise self._spoilt(path, "not what submit wrote")

    @property
    def system(self) -> Scheduler:
        return SCHEDULERS[self.read().system]

    @property
    def job_ids(self) -> list[str]:
        """All jobs of this run, the newest last."""
        path = self.folder / "jobs.txt"
        try:
            found = path.read_text(errors="replace").split() if path.exists() else []
        except OSError as problem:
            raise self._spoilt(path, f"cannot be read ({problem.strerror})") from None
        for job_id in found:
            if not re.fullmatch(
                r"[A-Za-z0-9][A-Za-z0-9_.\[\]-]*", job_id
            ):  # scancel would take -u for an option
                raise self._spoilt(path, f"holds {job_id[:60]!r}, which is no job id")
        return found

    @property
    def state(self) -> State:
        """How the newest job is; where the batch system has forgotten it, what the script left."""
        system, job_ids = self.system, self.job_ids
        if not job_ids:
            return State("failed", "was never accepted")
        known = system.state(job_ids[-1])
        if known is not None:
            return known
        left = self.folder / "exit_code"
        if not left.exists():
            return State("failed", f"{system.name} knows nothing of it, and it left no exit code")
        code = left.read_text(errors="replace").strip()
        return State("done" if code == str(DONE) else "failed", f"exit code {code}")

    def _spoilt(self, path: Path, problem: str) -> UserError:
        advice = f"see that no job of the run is in the queue, remove {self.folder}, and submit with --resume"
        return UserError(f"{path}: {problem}; {advice}")


def submissions(folder: Path) -> list[BatchFolder]:
    """Return the submission of a run directory, or those of all runs below a folder. Raises UserError if there are none."""
    below = (
        folder.glob("**/batch/submission.json") if os.path.isdir(folder) else []
    )  # a name that is too long is no folder
    found = [BatchFolder(path.parent.parent) for path in sorted([folder / "batch/submission.json", *below])]
    unique = list(
        {batch.run: batch for batch in found if os.path.exists(batch.folder / "submission.json")}.values()
    )
    if not unique:
        raise UserError(
            f"{folder}: nothing was submitted for a run there; name the run directory that submit printed"
        )
    return unique
